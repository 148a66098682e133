//! A strict reader of Prometheus' text format, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};

use worker::metrics::{Kind, Metric};

type Labels = BTreeMap<String, String>;

/// One scrape.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    kinds: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Exposition {
    /// Reads a scrape.
    ///
    /// Panics where the format is not kept: metadata before samples and once, the
    /// samples of a metric together and each series once, histograms cumulative.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends");
        let mut read = Self::default();
        let (mut current, mut closed) = (String::new(), BTreeSet::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a help text");
                assert!(read.helps.insert(name.into(), help.into()).is_none(), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert!(is_name(name), "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(read.kinds.insert(name.into(), kind.into()).is_none(), "{line}");
                assert!(closed.insert(std::mem::replace(&mut current, name.to_owned())), "{line}");
            } else {
                assert!(!line.starts_with('#'), "{line}");
                let (name, labels, value) = sample(line);
                assert_eq!(read.base(&name), current, "{line}");
                assert!(read.samples.insert((name, labels), value).is_none(), "twice: {line}");
            }
        }
        read.check_histograms();
        read
    }

    /// The metric that a sample belongs to.
    fn base<'a>(&self, name: &'a str) -> &'a str {
        let parts = ["_bucket", "_sum", "_count"];
        let base = parts.iter().find_map(|part| name.strip_suffix(part));
        base.filter(|base| self.kinds.get(*base).is_some_and(|k| k == "histogram")).unwrap_or(name)
    }

    fn check_histograms(&self) {
        let mut buckets: BTreeMap<(&str, Labels), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            if let Some(base) = name.strip_suffix("_bucket") {
                let mut labels = labels.clone();
                let bound = number(&labels.remove("le").expect("a bucket has a bound"));
                buckets.entry((base, labels)).or_default().push((bound, *value));
            }
        }
        for ((base, labels), mut bounds) in buckets {
            bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(bounds.is_sorted_by(|a, b| a.1 <= b.1), "{base} is not cumulative: {bounds:?}");
            let (last, all) = *bounds.last().unwrap();
            assert!(last.is_infinite());
            assert_eq!(self.samples.get(&(format!("{base}_count"), labels)), Some(&all), "{base}");
        }
    }

    /// The value of one series.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// The sum over all series of a metric.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|((known, _), _)| known == name).map(|(_, value)| value).sum()
    }

    /// Whether a metric has a series.
    pub(crate) fn has(&self, metric: &Metric) -> bool {
        self.samples.keys().any(|(name, _)| self.base(name) == metric.name)
    }

    /// Panics unless everything in here is promised in `all`, with that type, help
    /// and labels.
    pub(crate) fn check_against(&self, all: &[Metric]) {
        for (name, labels) in self.samples.keys() {
            let base = self.base(name);
            let metric = all.iter().find(|m| m.name == base);
            let metric = metric.unwrap_or_else(|| panic!("{base} is not in the list"));
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            assert_eq!(self.kinds[base], kind, "{base}");
            assert_eq!(self.helps[base], metric.help, "{base}");
            let named: BTreeSet<&str> =
                labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
            assert_eq!(named, metric.labels.iter().map(|label| label.name).collect(), "{base}");
            for known in metric.labels.iter().filter(|label| !label.values.is_empty()) {
                let value = labels[known.name].as_str();
                assert!(known.values.contains(&value), "{base}: {} is {value}", known.name);
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        text => text.parse().unwrap_or_else(|_| panic!("{text:?} is no number")),
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let (series, value) = line.rsplit_once(' ').expect("a series and a value");
    let (name, mut rest) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (name, rest.strip_suffix('}').expect("labels end")),
    };
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").expect("a label has a quoted value");
        assert!(is_name(label), "{line}");
        let end = closing_quote(after).expect("the quote ends");
        assert!(labels.insert(label.to_owned(), after[..end].to_owned()).is_none(), "{line}");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or_else(|| {
            assert!(rest.is_empty(), "{line}");
            rest
        });
    }
    (name.to_owned(), labels, number(value))
}

/// Where the first quote is that no backslash escapes.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at)
    })
}
