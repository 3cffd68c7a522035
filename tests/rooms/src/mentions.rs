//! What a source file names: its paths, from the root of a crate on, and the methods that it calls.
//!
//! The file is read as tokens, so that nothing in a comment or a string counts, and everything inside of a macro does. Code
//! that only tests have (`#[cfg(test)]`, `#[test]`) is passed over. Nothing is known of types: a name that comes from
//! nowhere in the file stays as it is written.

use std::collections::BTreeMap;
use std::str::FromStr;

use proc_macro2::{Delimiter, LexError, Spacing, TokenStream, TokenTree};

/// All that one file names.
#[derive(Debug, Default)]
pub struct Mentions {
    /// Paths, as in `std::time::Instant::now`; those of its own crate begin with `crate`.
    pub paths: Vec<Mention>,
    /// Methods that are called.
    pub methods: Vec<Mention>,
    /// Modules with files of their own that only tests have, from `crate` on.
    pub test_modules: Vec<String>,
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The path or the method.
    pub name: String,
    /// Everything in it is imported (`use path::*`).
    pub glob: bool,
    /// The line, from 1 on.
    pub line: usize,
}

/// A path as it is written.
struct Written {
    segments: Vec<String>,
    glob: bool,
    line: usize,
}

/// What the `use` declarations of a module call things.
type Names = BTreeMap<String, Vec<String>>;

/// What is named in `source`, a file of the module `module` (as in `["crate", "decide", "roll"]`).
///
/// # Errors
/// It is not Rust.
pub fn mentions(source: &str, module: &[String]) -> Result<Mentions, LexError> {
    let mut found = Mentions::default();
    read_module(TokenStream::from_str(source)?, module, &mut found);
    Ok(found)
}

fn read_module(stream: TokenStream, module: &[String], found: &mut Mentions) {
    let mut names = Names::new();
    let (mut written, mut inner) = (Vec::new(), Vec::new());
    let mut reader = Reader { module, names: &mut names, written: &mut written, inner: &mut inner, found };
    reader.read(stream);
    for Written { segments, glob, line } in written {
        let name = resolve(segments, module, &names).join("::");
        found.paths.push(Mention { name, glob, line });
    }
    for (name, stream) in inner {
        read_module(stream, &[module, &[name]].concat(), found);
    }
}

/// Follows the names that `use` gives, and what `self` and `super` mean.
fn resolve(mut path: Vec<String>, module: &[String], names: &Names) -> Vec<String> {
    // A name may be called after another one, but not in a circle.
    for _ in 0..=names.len() {
        match names.get(&path[0]) {
            Some(full) if full[0] != path[0] => path = [full.as_slice(), &path[1..]].concat(),
            Some(full) => return [full.as_slice(), &path[1..]].concat(),
            None => break,
        }
    }
    let mut here = match path[0].as_str() {
        "self" | "super" => module.to_vec(),
        _ => return path,
    };
    let ups = path.iter().take_while(|segment| *segment == "self" || *segment == "super");
    let skipped = ups.clone().count();
    for _ in ups.filter(|segment| *segment == "super") {
        here.pop();
    }
    [here.as_slice(), &path[skipped..]].concat()
}

/// Goes through the tokens of one module.
struct Reader<'a> {
    module: &'a [String],
    names: &'a mut Names,
    written: &'a mut Vec<Written>,
    /// Modules within this one.
    inner: &'a mut Vec<(String, TokenStream)>,
    found: &'a mut Mentions,
}

impl Reader<'_> {
    fn read(&mut self, stream: TokenStream) {
        let tokens: Vec<_> = stream.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Punct(punct) if punct.as_char() == '#' => self.attribute(&tokens, at),
                TokenTree::Group(group) => {
                    self.read(group.stream());
                    at + 1
                }
                TokenTree::Ident(ident) if ident == "use" => self.import(&tokens, at + 1),
                TokenTree::Ident(ident) if ident == "mod" => self.module(&tokens, at + 1),
                TokenTree::Ident(_) if is_method(&tokens, at) => {
                    let (name, line) = (tokens[at].to_string(), line(&tokens[at]));
                    self.found.methods.push(Mention { name, glob: false, line });
                    at + 1
                }
                TokenTree::Ident(_) => self.path(&tokens, at),
                TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
            };
        }
    }

    /// Reads an attribute; with what belongs to it, if only tests have that.
    fn attribute(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let Some(TokenTree::Group(group)) = tokens.get(at + 1) else { return at + 1 };
        if !is_for_tests(&group.stream().to_string()) {
            self.read(group.stream());
            return at + 2;
        }
        let end = end_of_item(tokens, at + 2);
        if let [.., TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Punct(_)] = &tokens[at..end]
            && word == "mod"
        {
            let path = [self.module, &[name.to_string()]].concat().join("::");
            self.found.test_modules.push(path);
        }
        end
    }

    fn module(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
            (tokens.get(at), tokens.get(at + 1))
        {
            self.inner.push((name.to_string(), body.stream()));
            return at + 2;
        }
        at
    }

    /// Reads the path that begins at `at`. A name alone says nothing that its `use` does not say.
    fn path(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let mut segments = vec![tokens[at].to_string()];
        let mut next = at + 1;
        while let (true, Some(TokenTree::Ident(ident))) = (is_colons(tokens, next), tokens.get(next + 2)) {
            segments.push(ident.to_string());
            next += 3;
        }
        if segments.len() > 1 {
            self.written.push(Written { segments, glob: false, line: line(&tokens[at]) });
        }
        next
    }

    /// Reads a `use` declaration.
    fn import(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let end = end_of_item(tokens, at);
        self.tree(&tokens[at..end], &[]);
        // A group ends what is looked for above, but not the declaration.
        end
    }

    /// Reads one tree of it, after `before`.
    fn tree(&mut self, tokens: &[TokenTree], before: &[String]) {
        let mut path = before.to_vec();
        let mut name = None;
        let mut glob = false;
        let first = tokens.first().map_or(0, line);
        let mut rest = tokens.iter();
        while let Some(token) = rest.next() {
            match token {
                TokenTree::Ident(ident) if ident == "as" => name = rest.next().map(ToString::to_string),
                TokenTree::Ident(ident) if ident == "self" && !path.is_empty() => {}
                TokenTree::Ident(ident) => path.push(ident.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == '*' => glob = true,
                TokenTree::Group(group) => {
                    let inner: Vec<_> = group.stream().into_iter().collect();
                    for tree in inner.split(is_comma).filter(|tree| !tree.is_empty()) {
                        self.tree(tree, &path);
                    }
                    return;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        let Some(last) = path.last() else { return };
        if !glob {
            self.names.insert(name.unwrap_or_else(|| last.clone()), path.clone());
        }
        self.written.push(Written { segments: path, glob, line: first });
    }
}

fn line(token: &TokenTree) -> usize {
    token.span().start().line
}

fn is_comma(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')
}

fn is_punct(tokens: &[TokenTree], at: usize, char: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == char)
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let is_joint =
        matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.spacing() == Spacing::Joint);
    is_joint && is_punct(tokens, at, ':') && is_punct(tokens, at + 1, ':')
}

/// One point before it: two make a range.
fn is_method(tokens: &[TokenTree], at: usize) -> bool {
    let is_point = |back: usize| at.checked_sub(back).is_some_and(|at| is_punct(tokens, at, '.'));
    let is_called = matches!(tokens.get(at + 1), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis);
    is_point(1) && !is_point(2) && (is_called || is_colons(tokens, at + 1))
}

fn is_for_tests(attribute: &str) -> bool {
    let text: String = attribute.chars().filter(|char| !char.is_whitespace()).collect();
    text == "test" || text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

/// Where the item that begins at `at` ends: behind its body, or behind its semicolon.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    let is_use = |at: usize| matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == "use");
    // The braces of a `use` are no body.
    let is_import = at > 0 && is_use(at - 1) || is_use(at);
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ';' => break,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && !is_import => break,
            _ => {}
        }
    }
    at
}
