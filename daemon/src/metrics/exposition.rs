//! The text format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>). Pure.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The kind of a figure for Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Observations counted by size.
    Histogram,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds as many.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of a histogram's buckets, in seconds. They reach from the time of an undisturbed call to a time after
/// which a runtime has given up waiting.
const BOUNDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Durations, counted by length.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Each bucket counts what the ones before it do not. The last one counts what is longer than every bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// The sum of all durations, in nanoseconds. It overflows after 584 years of waiting.
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Adds a duration.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A page of figures that is being written. The samples of one name have to follow its [`family`](Self::family).
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    name: &'static str,
}

impl Exposition {
    /// An empty page.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the samples of one name. `help` is one line.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        self.name = name;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n")));
        self.line(format_args!("# TYPE {name} {kind}"));
        self
    }

    /// Adds a sample to the family that was begun.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        let name = self.name;
        self.line(format_args!("{name}{} {value}", Labels(labels, None)));
        self
    }

    /// Adds the samples of a histogram to the family that was begun.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) -> &mut Self {
        let name = self.name;
        let mut count = 0;
        for (index, bucket) in histogram.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.line(format_args!("{name}_bucket{} {count}", Labels(labels, Some(&bound))));
        }
        let sum = Duration::from_nanos(histogram.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
        self.line(format_args!("{name}_sum{} {sum}", Labels(labels, None)));
        self.line(format_args!("{name}_count{} {count}", Labels(labels, None)));
        self
    }

    /// The whole page.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }
}

/// Labels in braces; no braces if there are no labels. The bound of a bucket comes last.
struct Labels<'a>(&'a [(&'a str, &'a str)], Option<&'a str>);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bound = self.1.map(|bound| ("le", bound));
        let mut before = '{';
        for (name, value) in self.0.iter().copied().chain(bound) {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{before}{name}=\"{value}\"")?;
            before = ',';
        }
        if before == ',' { f.write_char('}') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let given = Counter::default();
        given.increment();
        let mut page = Exposition::new();
        page.family("demo_given_total", Kind::Counter, "Given.\nOr \\ so.");
        page.sample(&[("pool", "a\"b\\c\nd"), ("family", "ipv4")], given.get());
        page.family("demo_leases", Kind::Gauge, "Now.").sample(&[], u128::MAX);
        assert_eq!(
            page.into_text(),
            "# HELP demo_given_total Given.\\nOr \\\\ so.\n# TYPE demo_given_total counter\n\
             demo_given_total{pool=\"a\\\"b\\\\c\\nd\",family=\"ipv4\"} 1\n\
             # HELP demo_leases Now.\n# TYPE demo_leases gauge\ndemo_leases 340282366920938463463374607431768211455\n"
        );
    }

    #[test]
    fn a_histogram_counts_each_time_in_every_bucket_that_it_fits() {
        let times = Histogram::default();
        for micros in [100, 101, 3_000, 60_000_000] {
            times.observe(Duration::from_micros(micros));
        }
        let mut page = Exposition::new();
        page.family("demo_seconds", Kind::Histogram, "Times.").histogram(&[("method", "x")], &times);
        let text = page.into_text();
        let count = |bound: &str| {
            let begin = format!("demo_seconds_bucket{{method=\"x\",le=\"{bound}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&begin)).map(str::to_owned)
        };
        let counts =
            ["0.0001", "0.00025", "0.0025", "0.005", "10", "+Inf"].map(|bound| count(bound).unwrap());
        assert_eq!(counts, ["1", "2", "2", "3", "3", "4"]);
        assert!(text.contains("demo_seconds_sum{method=\"x\"} 60.003201\n"), "{text}");
        assert!(text.ends_with("demo_seconds_count{method=\"x\"} 4\n"), "{text}");
    }
}
