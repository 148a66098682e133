//! The metrics in Prometheus' text format, version 0.0.4. There is no listener of its own:
//! the command's web server shows what [`Scrape::render`] returns.
//!
//! Every series is a few numbers that stay where they are: counting adds to them, and
//! rendering reads them. The exporter of the `metrics` family keeps each sample of a
//! histogram until somebody asks, and then sorts them: at a hundred thousand jobs a second
//! that is megabytes a second of new memory, and a tenth of what a job costs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::atomics::AtomicU64;
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Label, Metadata, SharedString, Unit,
};

use crate::metrics::{buckets_of, describe};

/// Renders the metrics of this process.
#[derive(Debug, Clone)]
pub struct Scrape(Recorder);

impl Scrape {
    /// Counts from now on.
    ///
    /// # Errors
    /// When the process counts already.
    pub fn start() -> anyhow::Result<Self> {
        let recorder = Recorder::default();
        metrics::set_global_recorder(recorder.clone())
            .map_err(|_| anyhow::anyhow!("this process counts already"))?;
        describe();
        Ok(Self(recorder))
    }

    /// Everything counted so far.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// Counts. A clone is the same one.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Metrics>>);

/// By name, in the order in which they are shown.
type Metrics = BTreeMap<SharedString, Metric>;

#[derive(Default)]
struct Metric {
    help: Option<SharedString>,
    series: BTreeMap<Vec<Label>, Series>,
}

enum Series {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Distribution>),
}

/// The samples of a histogram, by bucket.
struct Distribution {
    /// Upper bounds of the buckets, but for the last one, which has none.
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// Of all samples: the bits of an `f64`.
    sum: AtomicU64,
}

impl Distribution {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0f64.to_bits()) }
    }
}

impl HistogramFn for Distribution {
    fn record(&self, sample: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < sample);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let mut sum = self.sum.load(Ordering::Relaxed);
        // Nothing is read by it, so nothing need be ordered.
        while let Err(other) = self.sum.compare_exchange_weak(
            sum,
            (f64::from_bits(sum) + sample).to_bits(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            sum = other;
        }
    }
}

impl Recorder {
    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        // A panic leaves valid maps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn help(&self, name: &KeyName, help: SharedString) {
        let name = SharedString::from(name.as_str().to_owned());
        self.metrics().entry(name).or_default().help = Some(help);
    }

    /// What `get` sees of a series, made by `new` if there is none. `None`: the name stands
    /// for something else.
    fn series<T>(
        &self,
        key: &Key,
        new: impl FnOnce() -> Series,
        get: impl FnOnce(&Series) -> Option<T>,
    ) -> Option<T> {
        let labels = key.labels().cloned().collect();
        let mut metrics = self.metrics();
        let metric = metrics.entry(SharedString::from(key.name().to_owned())).or_default();
        get(metric.series.entry(labels).or_insert_with(new))
    }

    /// Everything counted so far, in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for (name, metric) in &*self.metrics() {
            metric.render(name, &mut text).expect("writing to a String cannot fail");
        }
        text
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.help(&name, help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.help(&name, help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.help(&name, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let new = || Series::Counter(Arc::default());
        let counter = self.series(key, new, |series| match series {
            Series::Counter(counter) => Some(Counter::from_arc(Arc::clone(counter))),
            _ => None,
        });
        counter.unwrap_or_else(Counter::noop)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let new = || Series::Gauge(Arc::new(AtomicU64::new(0f64.to_bits())));
        let gauge = self.series(key, new, |series| match series {
            Series::Gauge(gauge) => Some(Gauge::from_arc(Arc::clone(gauge))),
            _ => None,
        });
        gauge.unwrap_or_else(Gauge::noop)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let new = || Series::Histogram(Arc::new(Distribution::new(buckets_of(key.name()))));
        let histogram = self.series(key, new, |series| match series {
            Series::Histogram(histogram) => Some(Histogram::from_arc(Arc::clone(histogram))),
            _ => None,
        });
        histogram.unwrap_or_else(Histogram::noop)
    }
}

impl Metric {
    fn render(&self, name: &str, text: &mut String) -> fmt::Result {
        let Some(first) = self.series.values().next() else {
            return Ok(());
        };
        if let Some(help) = &self.help {
            writeln!(text, "# HELP {name} {}", help.replace('\\', r"\\").replace('\n', r"\n"))?;
        }
        writeln!(text, "# TYPE {name} {}", first.kind())?;
        for (labels, series) in &self.series {
            series.render(name, labels, text)?;
        }
        Ok(())
    }
}

impl Series {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    fn render(&self, name: &str, labels: &[Label], text: &mut String) -> fmt::Result {
        let of_labels = Labels(labels, None);
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        match self {
            Self::Counter(counter) => writeln!(text, "{name}{of_labels} {}", read(counter)),
            Self::Gauge(gauge) => {
                writeln!(text, "{name}{of_labels} {}", f64::from_bits(read(gauge)))
            }
            Self::Histogram(histogram) => {
                let mut so_far = 0;
                let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
                for (bound, count) in bounds.zip(&histogram.counts) {
                    so_far += read(count);
                    let labels = Labels(labels, Some(bound));
                    writeln!(text, "{name}_bucket{labels} {so_far}")?;
                }
                let sum = f64::from_bits(read(&histogram.sum));
                writeln!(text, "{name}_sum{of_labels} {sum}")?;
                writeln!(text, "{name}_count{of_labels} {so_far}")
            }
        }
    }
}

/// Labels as they stand behind a name, with the bound of a bucket if there is one.
struct Labels<'a>(&'a [Label], Option<f64>);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(labels, bound) = self;
        let mut before = '{';
        for label in *labels {
            let value = label.value().replace('\\', r"\\").replace('"', "\\\"");
            write!(f, "{before}{}=\"{}\"", label.key(), value.replace('\n', r"\n"))?;
            before = ',';
        }
        match bound {
            Some(f64::INFINITY) => write!(f, "{before}le=\"+Inf\"}}"),
            Some(bound) => write!(f, "{before}le=\"{bound}\"}}"),
            None if labels.is_empty() => Ok(()),
            None => f.write_str("}"),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, describe_counter, gauge, histogram, with_local_recorder};

    use super::*;

    fn counted(count: impl FnOnce()) -> String {
        let recorder = Recorder::default();
        with_local_recorder(&recorder, count);
        recorder.render()
    }

    #[test]
    fn shows_what_was_counted() {
        let text = counted(|| {
            describe_counter!("jobs_total", "Back\\slash,\nnew line.");
            describe_counter!("never_total", "Nothing of it was counted.");
            counter!("jobs_total", "kind" => "a\"\\\n").increment(2);
            counter!("jobs_total", "kind" => "a\"\\\n").increment(1);
            counter!("jobs_total", "kind" => "b", "outcome" => "done").absolute(7);
            gauge!("level").set(1.5);
            gauge!("level").decrement(0.5);
        });
        let jobs = "# HELP jobs_total Back\\\\slash,\\nnew line.\n# TYPE jobs_total counter\n\
             jobs_total{kind=\"a\\\"\\\\\\n\"} 3\njobs_total{kind=\"b\",outcome=\"done\"} 7\n";
        assert_eq!(text, format!("{jobs}# TYPE level gauge\nlevel 1\n"));
    }

    #[test]
    fn a_sample_counts_in_its_bucket_and_in_all_above() {
        let bounds = buckets_of("seconds");
        let text = counted(|| {
            let seconds = histogram!("seconds", "host" => "a");
            // On a bound, between two, and above all.
            seconds.record(bounds[0]);
            seconds.record(f64::midpoint(bounds[0], bounds[1]));
            seconds.record(1e9);
        });
        let counts: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("seconds_bucket{host=\"a\",le=\""))
            .map(|line| line.rsplit(' ').next().unwrap())
            .collect();
        let mut expected = vec!["2"; bounds.len() + 1];
        (expected[0], expected[bounds.len()]) = ("1", "3");
        assert_eq!(counts, expected, "{text}");
        assert!(text.contains(&format!("le=\"{}\"}} 1\n", bounds[0])), "{text}");
        assert!(text.contains("le=\"+Inf\"} 3\n"), "{text}");
        let sum = bounds[0] + f64::midpoint(bounds[0], bounds[1]) + 1e9;
        let end = format!("seconds_sum{{host=\"a\"}} {sum}\nseconds_count{{host=\"a\"}} 3\n");
        assert!(text.ends_with(&end), "{text}");
    }

    #[test]
    fn a_name_that_stands_for_something_else_counts_nothing() {
        let text = counted(|| {
            counter!("x").increment(1);
            gauge!("x").set(2.0);
            histogram!("x").record(3.0);
        });
        assert_eq!(text, "# TYPE x counter\nx 1\n");
    }

    #[test]
    fn samples_of_many_threads_are_all_there() {
        let recorder = Recorder::default();
        let histogram = with_local_recorder(&recorder, || histogram!("x"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| histogram.record(0.5)));
            }
        });
        assert!(recorder.render().ends_with("x_sum 20000\nx_count 40000\n"));
    }
}
