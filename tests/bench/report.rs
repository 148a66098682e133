//! The table, the CSV file and the plots.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use plotters::prelude::*;

use crate::measure::Samples;

/// A figure, beside its reference where it has one.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Samples,
    /// What it is compared with, and its figures.
    pub(crate) reference: Option<(String, Samples)>,
    /// Ratios of the pairs.
    pub(crate) ratio: Option<Samples>,
    /// What was hoped for, and whether it was reached.
    pub(crate) aim: Option<(String, bool)>,
}

/// Lines over a number of replicas.
#[derive(Debug)]
pub(crate) struct Plot {
    /// Name of its file, without an ending.
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    /// What each line is, and its points.
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Everything measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    plots: Vec<Plot>,
}

impl Report {
    pub(crate) fn add(&mut self, row: Row) {
        crate::eprintln_line(&row.line());
        self.rows.push(row);
    }

    pub(crate) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// The table, as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from(
            "| Measured | Ours | Reference | Ratio (spread) | Aim |\n|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let cells = row.cells();
            writeln!(out, "| {} |", cells.join(" | ")).expect("a String takes everything");
        }
        out
    }

    /// Writes everything into a folder; what was written.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<String> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        let mut csv = String::from(
            "measured,unit,ours_median,ours_low,ours_high,reference,reference_median,reference_low,reference_high,ratio_median,ratio_low,ratio_high\n",
        );
        for row in &self.rows {
            let three = |s: Option<&Samples>| match s {
                Some(s) => format!("{},{},{}", s.median(), s.lowest(), s.highest()),
                None => ",,".to_owned(),
            };
            let (name, reference) =
                row.reference.as_ref().map_or(("", None), |(n, s)| (n, Some(s)));
            writeln!(
                csv,
                "\"{}\",{},{},\"{name}\",{},{}",
                row.what,
                row.unit,
                three(Some(&row.ours)),
                three(reference),
                three(row.ratio.as_ref())
            )
            .expect("a String takes everything");
        }
        let path = folder.join("figures.csv");
        std::fs::write(&path, csv).with_context(|| format!("{}", path.display()))?;
        let mut written = path.display().to_string();
        for plot in &self.plots {
            let path = folder.join(format!("{}.svg", plot.file));
            plot.draw(&path).map_err(|e| anyhow!("{}: {e}", path.display()))?;
            write!(written, ", {}", path.display()).expect("a String takes everything");
        }
        Ok(written)
    }
}

/// Colours that colour-blind people can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

impl Plot {
    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|(_, line)| line);
        let right = points().map(|p| p.0).fold(1.0, f64::max) * 1.05;
        // The legend stands above the lines.
        let top = points().map(|p| p.1).fold(1.0, f64::max) * 1.4;
        let canvas = SVGBackend::new(path, (640, 400)).into_drawing_area();
        canvas.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&canvas)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..right, 0.0..top)?;
        chart.configure_mesh().light_line_style(WHITE).x_desc(self.x).y_desc(self.y).draw()?;
        for ((name, line), colour) in self.lines.iter().zip(COLOURS.into_iter().cycle()) {
            chart
                .draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            let dots = line.iter().map(|&point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(dots)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(BLACK)
            .draw()?;
        Ok(canvas.present()?)
    }
}

impl Row {
    fn cells(&self) -> [String; 5] {
        let figure = |s: &Samples| format!("{} {}", short(s.median()), self.unit);
        [
            self.what.clone(),
            figure(&self.ours),
            self.reference
                .as_ref()
                .map_or_else(String::new, |(name, s)| format!("{} ({name})", figure(s))),
            self.ratio.as_ref().map_or_else(String::new, |s| {
                format!("{:.2} ({:.2}–{:.2})", s.median(), s.lowest(), s.highest())
            }),
            self.aim.as_ref().map_or_else(String::new, |(aim, reached)| {
                format!("{aim}: {}", if *reached { "reached" } else { "missed" })
            }),
        ]
    }

    fn line(&self) -> String {
        self.cells().into_iter().filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" · ")
    }
}

/// Three digits that say something.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
