//! `ferrule-bench`: prints the table. Lives here: arguments, the order of things, and the exit status.
//!
//! Must be started in a network and mount namespace of its own; `make bench` does that, and builds what it needs.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use ferrule_bench::{
    machine::{Machine, Stolen},
    row::{Row, table},
    rows::{GROUPS, Group},
    stand::Bench,
};
use ferrule_tests::{
    command::run_here,
    error::{Context, LabError, Result},
    install::Install,
};
use nix::sys::stat::{Mode, umask};
use serde_json::{Value, json};

/// Measures Ferrule beside its peers and prints one table.
#[derive(Debug, Parser)]
#[command(version, about, after_help = groups())]
struct Args {
    /// Measure only the groups whose name contains PATTERN
    #[arg(long, value_name = "PATTERN", default_value = "")]
    only: String,
    /// How often each verb is measured
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Fewer and shorter measurements, for a first look
    #[arg(long)]
    quick: bool,
    /// Write the table as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Directory of the built daemons
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    bin_dir: PathBuf,
    /// The built plugin; ferrule-floor is beside it
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The repository's conf/
    #[arg(long, value_name = "DIR", default_value = "conf")]
    conf_dir: PathBuf,
    /// Where a directory for configuration, logs and stores is made: on a disk; it stays if something fails
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
}

fn groups() -> String {
    let lines = GROUPS.iter().map(|Group { name, about, .. }| format!("  {name:8} {about}\n"));
    format!("Groups:\n{}", lines.collect::<String>())
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ferrule-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and tells; false if a group could not be measured. A target that is not met is a result like another.
fn run(args: &Args) -> Result<bool> {
    require_own_namespaces()?;
    // The daemons run as another user, who reads the configuration written here.
    umask(Mode::from_bits_truncate(0o022));
    let bench = bench(args)?;
    let machine = Machine::look();
    eprintln!("{}", machine.text());
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    let all = Stolen::now();
    for group in GROUPS.iter().filter(|group| group.name.contains(&args.only)) {
        eprintln!("measuring {}: {}", group.name, group.about);
        let stolen = Stolen::now();
        match (group.measure)(&bench) {
            Ok(measured) => {
                eprint!("{}", table(&measured));
                let (kept, again) = (stolen.part() * 1e2, bench.again.take());
                eprintln!(
                    "the host kept {kept:.1} % of the cores for others; {again} rounds were made again"
                );
                rows.extend(measured);
            }
            Err(error) => {
                eprintln!("{} could not be measured: {error}", group.name);
                failures.push((group.name, error.to_string()));
            }
        }
    }
    let stolen = all.part();
    print(&machine, &rows, &failures, stolen);
    if let Some(path) = &args.json {
        let text = json_text(&machine, &rows, &failures, stolen);
        fs::write(path, text).context(|| path.display().to_string())?;
    }
    let dir = bench.dir.display();
    if failures.is_empty() {
        fs::remove_dir_all(&bench.dir).context(|| dir.to_string())?;
    } else {
        eprintln!("configuration and logs are in {dir}");
    }
    Ok(failures.is_empty())
}

fn bench(args: &Args) -> Result<Bench> {
    let plugin = absolute(&args.plugin)?;
    let dir = absolute(&args.dir)?.join(format!("ferrule-bench.{}", std::process::id()));
    fs::create_dir(&dir).context(|| dir.display().to_string())?;
    let rounds = usize::from(if args.quick { args.rounds.min(10) } else { args.rounds });
    Ok(Bench {
        floor: absolute(&plugin.with_file_name("ferrule-floor"))?,
        install: Install { bin_dir: absolute(&args.bin_dir)?, plugin, conf_dir: absolute(&args.conf_dir)? },
        dir,
        rounds,
        quick: args.quick,
        again: Cell::default(),
    })
}

#[expect(clippy::print_stdout, reason = "the table is the program's output")]
fn print(machine: &Machine, rows: &[Row], failures: &[(&str, String)], stolen: f64) {
    let targets = || rows.iter().flat_map(|row| &row.targets);
    let met = targets().filter(|target| target.met).count();
    println!("\n{}\n\n{}", machine.text(), table(rows));
    println!("{met} of {} targets met", targets().count());
    println!("the host kept {:.1} % of the cores for others while this was measured", stolen * 1e2);
    for (name, error) in failures {
        println!("NOT MEASURED: {name}: {error}");
    }
}

fn json_text(machine: &Machine, rows: &[Row], failures: &[(&str, String)], stolen: f64) -> String {
    let failures = failures.iter().map(|(name, error)| json!({ "group": name, "error": error }));
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    let failures: Vec<_> = failures.collect();
    let all = json!({ "machine": machine.json(), "stolen": stolen, "rows": rows, "failures": failures });
    format!("{all:#}\n")
}

/// Nodes have other directories: every path is made absolute before the first one is entered.
fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().context(|| path.display().to_string())
}

/// Refuses to work in the machine's own namespaces: only a network that holds nothing but loopback is ours.
fn require_own_namespaces() -> Result<()> {
    let links = run_here("ip -o link show")?;
    if links.lines().all(|line| line.contains(": lo:")) {
        return Ok(());
    }
    Err(LabError::promise("a network namespace of the bench's own; start it by `make bench`", links))
}
