//! The comparison as one table.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use unguarded::guards::Guard;

use super::{Figures, Trouble, Way, run};

/// A way's sums over all seeds, a cell for each of [`Trouble::ALL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Whose they are.
    pub way: Way,
    /// In the order of [`Trouble::ALL`].
    pub cells: Vec<Cell>,
}

/// Sums over all seeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Users, all of whom could be locked out.
    pub users: usize,
    /// As in [`Figures`].
    pub lost: u64,
    /// As in [`Figures`].
    pub locked_out: usize,
    /// As in [`Figures`].
    pub cut_off: u64,
    /// As in [`Figures`].
    pub refreshes: u64,
    /// As in [`Figures`].
    pub expiries: u64,
}

impl Cell {
    fn add(&mut self, figures: &Figures) {
        self.users += figures.users;
        self.lost += figures.lost;
        self.locked_out += figures.locked_out.len();
        self.cut_off += figures.cut_off;
        self.refreshes += figures.refreshes;
        self.expiries += figures.expiries;
    }

    /// Calls of the token endpoint for one expiry; ideally one.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn refreshes_per_expiry(&self) -> f64 {
        self.refreshes as f64 / self.expiries.max(1) as f64
    }
}

/// Runs every way in every trouble with so many seeds, on all cores.
///
/// # Panics
/// When a run does.
pub fn rows(seeds: u64) -> Vec<Row> {
    let ways = Guard::ALL.into_iter().map(Way::Model).chain([Way::Fleet]);
    let rows: Vec<_> =
        ways.map(|way| (way, Mutex::new(vec![Cell::default(); Trouble::ALL.len()]))).collect();
    let runs: Vec<_> = (0..rows.len())
        .flat_map(|row| (0..Trouble::ALL.len()).map(move |column| (row, column)))
        .flat_map(|(row, column)| (0..seeds).map(move |seed| (row, column, seed)))
        .collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((row, column, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let (way, cells) = &rows[*row];
                    let figures = run(*way, Trouble::ALL[*column], *seed);
                    cells.lock().expect("no run panicked")[*column].add(&figures);
                }
            });
        }
    });
    let done = rows.into_iter();
    done.map(|(way, cells)| Row { way, cells: cells.into_inner().expect("no run panicked") })
        .collect()
}

/// The rows in Markdown: in each cell grants lost, refreshes per expiry, users locked out.
pub fn table(rows: &[Row]) -> String {
    let columns = Trouble::ALL.into_iter().map(Trouble::describe);
    let head: Vec<_> = ["how the refresh is guarded"].into_iter().chain(columns).collect();
    let mut lines =
        vec![format!("| {} | cut off |", head.join(" | ")), "|---".repeat(head.len() + 1) + "|"];
    for row in rows {
        let told = row.cells.iter().map(|cell| {
            let (lost, rate, out) = (cell.lost, cell.refreshes_per_expiry(), cell.locked_out);
            format!("{lost} · {rate:.2} · {out}")
        });
        let cells = told.collect::<Vec<_>>().join(" | ");
        let cut_off: u64 = row.cells.iter().map(|cell| cell.cut_off).sum();
        lines.push(format!("| {} | {cells} | {cut_off} |", row.way.describe()));
    }
    lines.join("\n") + "\n"
}
