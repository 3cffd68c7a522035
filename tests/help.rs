//! What `--help` looks like at any width, for the tests of both daemons: a line ends where the next word does not fit, or where the text
//! says so, and nowhere else.

use std::process::Command;

/// Looks at the help of a program and of its commands.
pub(crate) fn is_wrapped_once(program: &str, commands: &[&str]) {
    for command in commands.iter().map(Some).chain([None]) {
        for width in [40, 64, 80, 100, 200] {
            let output =
                Command::new(program).args(command).arg("--help").env("COLUMNS", width.to_string()).output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap();
            // It is never set wider than this.
            look(&text, width.min(100));
        }
    }
}

fn look(text: &str, width: usize) {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let [line, next] = pair else { continue };
        let is_prose = |line: &str| !line.trim().is_empty() && !line.trim_start().contains("  ");
        let goes_on = is_prose(line) && is_prose(next) && indent(line) == indent(next);
        if !goes_on || line.ends_with(['.', ':', ']']) || line.trim_start().starts_with(['-', '<']) {
            continue;
        }
        let word = next.split_whitespace().next().unwrap_or_default();
        let fits = line.chars().count() + 1 + word.chars().count() <= width;
        assert!(!fits, "at {width} there is room for {word:?} behind {line:?}:\n{text}");
    }
}
