//! Figures for Prometheus and health for probes: the text format ([`Exposition`]), counters and histograms that cost an
//! atomic addition ([`Counter`], [`Histogram`]), the figures that every process has ([`process_figures`]), and a small
//! HTTP server ([`serve_metrics`]). Each daemon itself decides which figures it has.

mod exposition;
mod http;
mod process;

pub use exposition::{Counter, Exposition, Histogram, Kind};
pub use http::{HttpLimits, Page, Pages, serve_metrics};
pub use process::process_figures;
