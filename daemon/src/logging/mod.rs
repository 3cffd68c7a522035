//! Logs to standard error, in the form that its reader wants: the journal, a terminal or a file.

mod sink;

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IsTerminal, Write, stderr};
use std::os::unix::fs::MetadataExt;

use sink::Sink;
use thiserror::Error;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Why logging could not be started.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// The filter cannot be parsed.
    #[error("the log filter \"{filter}\" cannot be parsed: {source}; write a level or levels by module")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// This process logs already.
    #[error("logging was started twice: {0}")]
    Started(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Starts logging to standard error, once in a process.
///
/// On a terminal, lines have the time and colours. In the journal they have neither, because the journal keeps its own
/// time, but the priority in front, so that `journalctl -p warning` works. Elsewhere they have the time and no colours.
///
/// A reader of standard error that does not read holds up nobody who logs. When the returned value is dropped, it waits
/// a little for the last lines.
///
/// # Errors
/// If the filter cannot be parsed, or the process logs already.
pub fn start_logging(filter: &str) -> Result<Logging, LoggingError> {
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let file = std::fs::metadata("/proc/self/fd/2").ok().map(|stat| (stat.dev(), stat.ino()));
    let style = Style::of(journal.as_deref(), file, stderr().is_terminal());
    tracing::subscriber::set_global_default(subscriber(style, filter, || Output)?)?;
    Ok(Logging)
}

/// The log. It is kept as long as the process runs.
#[derive(Debug)]
#[must_use = "dropped at the end it waits for the last lines"]
pub struct Logging;

impl Drop for Logging {
    fn drop(&mut self) {
        SINK.flush();
    }
}

static SINK: Sink = Sink::new();

thread_local! {
    /// The lines that this thread collects for one write.
    static KEPT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes everything that this thread logs during `work` in one system call at the end, instead of one call for each
/// line.
pub fn log_as_one(work: impl FnOnce()) {
    KEPT.set(Some(Vec::new()));
    work();
    if let Some(lines) = KEPT.take() {
        SINK.write(&lines);
    }
}

/// Standard error, or the lines that are collected.
struct Output;

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        KEPT.with_borrow_mut(|kept| match kept {
            Some(lines) => lines.write(line),
            None => {
                SINK.write(line);
                Ok(line.len())
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reader of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Journal,
    Terminal,
    File,
}

impl Style {
    /// `journal` is `JOURNAL_STREAM`, which holds device and inode of the journal's stream. A process inherits that
    /// variable even if its standard error was redirected afterwards. So it is compared with `file` (systemd.exec(5)).
    fn of(journal: Option<&str>, file: Option<(u64, u64)>, terminal: bool) -> Self {
        let stream = journal
            .and_then(|text| text.split_once(':'))
            .and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
        match (stream, terminal) {
            (Some(stream), _) if Some(stream) == file => Self::Journal,
            (_, true) => Self::Terminal,
            (_, false) => Self::File,
        }
    }
}

fn subscriber<W>(style: Style, filter: &str, writer: W) -> Result<impl Subscriber + Send + Sync, LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| LoggingError::Filter { filter: filter.to_owned(), source })?;
    Ok(tracing_subscriber::fmt()
        .with_ansi(style == Style::Terminal)
        .with_env_filter(filter)
        .with_writer(writer)
        .event_format(Line { style })
        .finish())
}

/// One event as one line.
struct Line {
    style: Style,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.style != Style::Journal {
            return Format::<Full>::default().format_event(context, writer, event);
        }
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        Format::<Full>::default().without_time().with_level(false).format_event(context, writer, event)
    }
}

/// The level as a number of syslog (sd-daemon(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The output of one warning. It also shows that a filtered event leaves nothing.
    fn logged(style: Style) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = subscriber(style, "info", move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("hidden");
            tracing::warn!(node = "node-a", "no route");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_journal_gets_the_priority_and_neither_time_nor_colour() {
        assert_eq!(logged(Style::Journal), "<4>ferrule_daemon::logging::tests: no route node=\"node-a\"\n");
    }

    #[test]
    fn lines_that_are_written_as_one_are_kept_until_then_and_no_longer() {
        let subscriber = subscriber(Style::Journal, "info", || Output).unwrap();
        let kept = || KEPT.with_borrow(|kept| kept.clone().map(|lines| String::from_utf8(lines).unwrap()));
        tracing::subscriber::with_default(subscriber, || {
            log_as_one(|| {
                tracing::info!("first");
                tracing::warn!("second");
                let lines = kept().unwrap();
                let lines: Vec<_> = lines.lines().collect();
                let [first, second] = lines[..] else { panic!("{lines:?}") };
                assert!(first.starts_with("<6>") && first.ends_with("first"), "{first}");
                assert!(second.starts_with("<4>") && second.ends_with("second"), "{second}");
            });
            assert_eq!(kept(), None);
        });
    }

    #[test]
    fn a_terminal_gets_colours_and_a_file_none() {
        assert!(logged(Style::Terminal).contains("\u{1b}["));
        let line = logged(Style::File);
        assert!(!line.contains('\u{1b}') && line.contains(" WARN "), "{line}");
        assert!(line.starts_with("20") && line.ends_with("no route node=\"node-a\"\n"), "{line}");
    }

    #[test]
    fn the_journal_counts_only_while_standard_error_still_goes_there() {
        assert_eq!(Style::of(Some("8:123"), Some((8, 123)), false), Style::Journal);
        assert_eq!(Style::of(Some("8:123"), Some((8, 124)), false), Style::File);
        assert_eq!(Style::of(Some("8:123"), Some((8, 124)), true), Style::Terminal);
        assert_eq!(Style::of(Some("nonsense"), Some((8, 124)), false), Style::File);
        assert_eq!(Style::of(None, None, false), Style::File);
    }
}
