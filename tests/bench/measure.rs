//! Medians, spreads, and what a process has used.

use anyhow::Context as _;

/// Several measurements of one thing, in the order in which they were made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    pub(crate) fn lowest(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn highest(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// Each of these by the one of `other` that was measured in the same run.
    pub(crate) fn by(&self, other: &Self) -> Self {
        self.0.iter().zip(&other.0).map(|(ours, other)| ours / other).collect()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// A measurement that is made once.
impl From<f64> for Samples {
    fn from(value: f64) -> Self {
        Self(vec![value])
    }
}

/// The memory of a process that is in RAM, in bytes.
pub(crate) fn resident(process: u32) -> anyhow::Result<u64> {
    memory(process, "VmRSS:")
}

/// The most that it has been, in bytes.
pub(crate) fn peak(process: u32) -> anyhow::Result<u64> {
    memory(process, "VmHWM:")
}

fn memory(process: u32, field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.with_context(|| format!("no {field}"))?;
    let kilobytes: u64 = kilobytes.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

/// The processor time of a process so far, in seconds (steps of 10 ms).
pub(crate) fn cpu_of(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything; `utime` and `stime` are 14 and 15.
    let rest = stat.rsplit(')').next().context("no name")?;
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).map(|n| n.parse().unwrap_or(0)).sum();
    Ok(ticks as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_of_all_runs_and_a_ratio_of_one() {
        let ours = Samples::from_iter([30.0, 10.0, 20.0]);
        assert_eq!((ours.median(), ours.lowest(), ours.highest()), (20.0, 10.0, 30.0));
        let theirs = Samples::from_iter([10.0, 20.0, 40.0]);
        let ratio = ours.by(&theirs);
        assert_eq!((ratio.lowest(), ratio.median(), ratio.highest()), (0.5, 0.5, 3.0));
        let even = Samples::from_iter([1.0, 2.0]);
        assert_eq!((even.median(), even.highest()), (1.5, 2.0));
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn a_process_is_read_from_outside() {
        let process = std::process::id();
        let (resident, peak) = (resident(process).unwrap(), peak(process).unwrap());
        assert!(0 < resident && resident <= peak, "{resident} {peak}");
        assert!(cpu_of(process).unwrap() < 1e6);
    }
}
