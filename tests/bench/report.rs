//! The table, the CSV file and the plots.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use plotters::prelude::*;

use crate::contender::Contender;
use crate::measure::Samples;

/// A figure of somebody: its unit, and what was measured.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) unit: &'static str,
    pub(crate) samples: Samples,
}

impl Figure {
    pub(crate) fn new(unit: &'static str, samples: impl Into<Samples>) -> Self {
        Self { unit, samples: samples.into() }
    }
}

/// Something that is measured, of everybody who can do it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) figures: BTreeMap<Contender, Vec<Figure>>,
    /// What ours is beside something else, and what that is.
    pub(crate) beside: Vec<(String, Samples)>,
    pub(crate) aims: Vec<Aim>,
    /// In the CSV file alone.
    pub(crate) is_detail: bool,
}

/// What was hoped for.
#[derive(Debug, Clone)]
pub(crate) struct Aim {
    pub(crate) text: String,
    pub(crate) reached: bool,
}

impl Row {
    /// A row of ours alone.
    pub(crate) fn ours(what: impl Into<String>, figures: impl Into<Vec<Figure>>) -> Self {
        let figures = [(Contender::Fleet, figures.into())].into();
        Self { what: what.into(), figures, ..Self::default() }
    }

    pub(crate) fn beside(mut self, what: impl Into<String>, ratio: impl Into<Samples>) -> Self {
        self.beside.push((what.into(), ratio.into()));
        self
    }

    pub(crate) fn aim(mut self, text: impl Into<String>, reached: bool) -> Self {
        self.aims.push(Aim { text: text.into(), reached });
        self
    }
}

/// Lines over a number of something.
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
#[derive(Debug)]
pub(crate) struct Report {
    runs: u16,
    rows: Vec<Row>,
    plots: Vec<Plot>,
}

impl Report {
    pub(crate) fn new(runs: u16) -> Self {
        Self { runs, rows: Vec::new(), plots: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        let cells = self.cells(&row);
        crate::say(&cells.into_iter().filter(|c| !c.is_empty()).collect::<Vec<_>>().join(" · "));
        self.rows.push(row);
    }

    pub(crate) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// The table, as Markdown. Somebody who was never measured has no column.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("| median of {} |", self.runs);
        for who in self.columns() {
            write!(out, " {who} |").expect("a String takes everything");
        }
        out.push_str(" Fleet beside (spread) | Aim |\n|---|");
        out.push_str(&"---|".repeat(self.columns().len() + 2));
        out.push('\n');
        for row in self.rows.iter().filter(|row| !row.is_detail) {
            let cells = self.cells(row);
            writeln!(out, "| {} |", cells.join(" | ")).expect("a String takes everything");
        }
        out
    }

    fn columns(&self) -> Vec<Contender> {
        let measured = |who: &Contender| {
            *who == Contender::Fleet
                || self.rows.iter().any(|row| row.figures.contains_key(who) && !row.is_detail)
        };
        Contender::ALL.into_iter().filter(measured).collect()
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let mut cells = vec![row.what.clone()];
        for who in if row.is_detail { Contender::ALL.to_vec() } else { self.columns() } {
            let figures = row.figures.get(&who).map_or(&[][..], Vec::as_slice);
            let figures = figures.iter().map(|f| in_unit(f.samples.median(), f.unit));
            cells.push(figures.collect::<Vec<_>>().join(", "));
        }
        let beside = row.beside.iter().map(|(what, ratio)| {
            let (low, high) = (ratio.lowest(), ratio.highest());
            format!("{what} {} ({}–{})", short(ratio.median()), short(low), short(high))
        });
        cells.push(beside.collect::<Vec<_>>().join("; "));
        let aims = row.aims.iter().map(|aim| {
            format!("{}: {}", aim.text, if aim.reached { "reached" } else { "**missed**" })
        });
        cells.push(aims.collect::<Vec<_>>().join("; "));
        cells
    }

    /// Writes everything into a folder; what was written.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<String> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        let mut written = Vec::new();
        for (name, content) in [("table.md", self.table()), ("figures.csv", self.csv())] {
            let path = folder.join(name);
            std::fs::write(&path, content).with_context(|| format!("{}", path.display()))?;
            written.push(path.display().to_string());
        }
        for plot in &self.plots {
            let path = folder.join(format!("{}.svg", plot.file));
            plot.draw(&path).map_err(|e| anyhow!("{}: {e}", path.display()))?;
            written.push(path.display().to_string());
        }
        Ok(written.join(", "))
    }

    /// One line for each figure.
    fn csv(&self) -> String {
        let mut csv = String::from("measured,who,unit,median,low,high\n");
        let mut line = |what: &str, who: &str, unit: &str, samples: &Samples| {
            let three = [samples.median(), samples.lowest(), samples.highest()];
            let three = three.map(|value| value.to_string()).join(",");
            writeln!(csv, "\"{what}\",\"{who}\",\"{unit}\",{three}")
                .expect("a String takes everything");
        };
        for row in &self.rows {
            for (who, figures) in &row.figures {
                for figure in figures {
                    line(&row.what, &who.to_string(), figure.unit, &figure.samples);
                }
            }
            for (what, ratio) in &row.beside {
                line(&row.what, "Fleet beside", what, ratio);
            }
        }
        csv
    }
}

/// Colours that colour-blind people can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];

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

fn in_unit(value: f64, unit: &str) -> String {
    if unit.starts_with('/') {
        format!("{}{unit}", short(value))
    } else {
        format!("{} {unit}", short(value))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let mut row =
            Row::ours("calls of 20 ms", [Figure::new("/s", 3000.4), Figure::new("µs", 71.25)])
                .beside("rate by Go", Samples::from_iter([0.9, 1.1, 1.0]))
                .aim("≥ 0.95", true)
                .aim("µs ≤ 1", false);
        row.figures.insert(Contender::Go, vec![Figure::new("/s", 3051.0)]);
        row
    }

    #[test]
    fn the_table_has_those_who_were_measured() {
        let mut report = Report::new(3);
        report.add(row());
        report.add(Row { is_detail: true, ..Row::ours("a detail", [Figure::new("ms", 1.0)]) });
        assert_eq!(
            report.table(),
            "| median of 3 | Fleet | Go | Fleet beside (spread) | Aim |\n\
             |---|---|---|---|---|\n\
             | calls of 20 ms | 3000/s, 71.2 µs | 3051/s | rate by Go 1.00 (0.90–1.10) | ≥ 0.95: reached; µs ≤ 1: **missed** |\n"
        );
    }

    #[test]
    fn everything_is_written() {
        let mut report = Report::new(3);
        report.add(row());
        report.add(Row { is_detail: true, ..Row::ours("a detail", [Figure::new("ms", 1.5)]) });
        report.plot(Plot {
            file: "plot",
            title: "A plot",
            x: "slots",
            y: "jobs/s",
            lines: vec![("Fleet".to_owned(), vec![(64.0, 640.0), (512.0, 5000.0)])],
        });
        let folder = tempfile::tempdir().unwrap();
        report.write(folder.path()).unwrap();
        let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("table.md"), report.table());
        assert_eq!(
            read("figures.csv"),
            "measured,who,unit,median,low,high\n\
             \"calls of 20 ms\",\"Fleet\",\"/s\",3000.4,3000.4,3000.4\n\
             \"calls of 20 ms\",\"Fleet\",\"µs\",71.25,71.25,71.25\n\
             \"calls of 20 ms\",\"Go\",\"/s\",3051,3051,3051\n\
             \"calls of 20 ms\",\"Fleet beside\",\"rate by Go\",1,0.9,1.1\n\
             \"a detail\",\"Fleet\",\"ms\",1.5,1.5,1.5\n"
        );
        assert!(read("plot.svg").contains("A plot"));
    }
}
