//! `routed status` and `routed nodes`: they show what the running daemon knows, for people and as JSON.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ferrule_daemon::{AskError, Asked, CommonArgs, ago, print, print_json, table};
use ferrule_wire::routed::{Failure, Failures, Kind, Node, Nodes, NodesReply, Status, StatusReply};

use crate::PROGRAM;

/// The exit status if the daemon runs, but not all is well.
const NOT_WELL: u8 = 3;

/// Options of the commands that show something.
#[derive(Debug, Clone, Copy, Args, PartialEq, Eq)]
pub struct Form {
    /// The daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the state of this node. The exit code says whether all is well.
///
/// # Errors
/// The daemon cannot be asked.
pub fn status(common: &CommonArgs, form: Form) -> Result<ExitCode, AskError> {
    let mut routed = Asked::connect(&common.runtime_dir, PROGRAM)?;
    let status = routed.ask(|client| client.call(&Status {}))?;
    let is_well = status.ready
        && status.last_error.is_none()
        && status.objects.iter().all(|objects| (objects.pending, objects.failed) == (0, 0));
    if form.json {
        print_json(&status)?;
    } else {
        let mut failures = Vec::new();
        routed.ask(|client| client.call_more(&Failures {}, |page| failures.extend(page.failures)))?;
        print(&page(&status, &failures))?;
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(NOT_WELL) })
}

fn page(status: &StatusReply, failures: &[Failure]) -> String {
    let age = |millis: Option<u64>| millis.map(|millis| ago(Duration::from_millis(millis)));
    let state = match (&status.waiting_for, &status.last_error, status.ready) {
        (Some(waiting), ..) => format!("waiting for {waiting}"),
        (None, Some(error), _) => format!("the last pass could not be made: {error}"),
        (None, None, true) => "ready".to_owned(),
        (None, None, false) => "not ready yet: the first list of nodes is being carried out".to_owned(),
    };
    let list = age(status.snapshot_age_ms).map_or("not told yet".to_owned(), |age| format!("list {age} old"));
    let news = age(status.news_age_ms).map(|age| format!(", last news {age} ago")).unwrap_or_default();
    let mut text = String::new();
    for (name, value) in [
        ("node", format!("{} (routed {})", status.node, status.version)),
        ("state", state),
        ("backend", format!("{}, MTU of the pods {}", status.backend, status.mtu)),
        ("underlay", status.underlay.clone()),
        ("nodes", format!("{} from {} ({list}{news})", status.nodes, status.source)),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:10}{value}");
    }
    let rows = status.objects.iter().map(|objects| {
        let counts = [objects.desired, objects.observed, objects.pending, objects.failed];
        let [desired, observed, pending, failed] = counts.map(|count| count.to_string());
        [name(objects.kind).to_owned(), desired, observed, pending, failed]
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(["KIND", "WANTED", "THERE", "PENDING", "REFUSED"], &rows));
    }
    if !failures.is_empty() {
        text.push_str("\nrefused:\n");
    }
    for failure in failures {
        let next = ago(Duration::from_millis(failure.next_try_ms));
        let _ = writeln!(text, "  {}: {} (tried again in {next})", failure.object, failure.reason);
    }
    text
}

const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Links => "links",
        Kind::Addresses => "addresses",
        Kind::Fdb => "fdb",
        Kind::Neighbours => "neighbours",
        Kind::Peers => "peers",
        Kind::Nexthops => "nexthops",
        Kind::Routes => "routes",
    }
}

/// Prints all nodes.
///
/// # Errors
/// The daemon cannot be asked.
pub fn nodes(common: &CommonArgs, form: Form) -> Result<ExitCode, AskError> {
    let mut routed = Asked::connect(&common.runtime_dir, PROGRAM)?;
    let mut nodes = Vec::new();
    routed.ask(|client| client.call_more(&Nodes {}, |page| nodes.extend(page.nodes)))?;
    if form.json {
        print_json(&NodesReply { nodes })?;
        return Ok(ExitCode::SUCCESS);
    }
    if nodes.is_empty() {
        let status = routed.ask(|client| client.call(&Status {}))?;
        let waiting = status.waiting_for.map(|what| format!(": routed waits for {what}")).unwrap_or_default();
        print(&format!("no node is known{waiting}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let own = routed.ask(|client| client.call(&Status {}))?.node;
    let rows: Vec<_> = nodes.iter().map(|node| row(node, &own)).collect();
    print(&table(["NODE", "ADDRESSES", "POD CIDRS", "STATE"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

fn row(node: &Node, own: &str) -> [String; 4] {
    let joined = |list: Vec<String>| list.join(",");
    let state = match &node.last_error {
        Some(error) => error.clone(),
        None if node.name == own => "this node".to_owned(),
        None => "well".to_owned(),
    };
    [
        node.name.clone(),
        joined(node.addresses.iter().map(ToString::to_string).collect()),
        joined(node.pod_cidrs.iter().map(ToString::to_string).collect()),
        state,
    ]
}
