//! The dashboard, for Cloud Monitoring and for Grafana.

use serde_json::Value;

use super::{list, query, read, text};

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/monitoring/dashboard.json")).unwrap()
}

fn grafana() -> Value {
    serde_json::from_str(&read("deploy/monitoring/grafana.json")).unwrap()
}

#[test]
fn every_query_is_about_the_fleet_that_is_chosen() {
    for text in [dashboard().to_string(), grafana().to_string()] {
        for name in ["fleet_", "slo:"] {
            for (at, _) in text.match_indices(name) {
                let before = text[..at].chars().next_back();
                if before.is_some_and(|c| !"( \"".contains(c)) {
                    continue;
                }
                let after = text[at..].split_once('{').map(|(_, after)| after);
                let own = after.is_some_and(|after| after.starts_with("namespace=\\\"$"));
                assert!(own, "{}", &text[at..at + 60]);
            }
        }
        assert!(!text.contains("jobs-workers\\\"}"), "a subscription is written out");
    }
}

#[test]
fn every_metric_of_the_dashboard_exists() {
    let dashboard = dashboard();
    let mut charts = 0;
    for tile in list(&dashboard, "/mosaicLayout/tiles") {
        let title = text(tile, "/widget/title");
        for set in list(tile, "/widget/xyChart/dataSets") {
            charts += 1;
            let faults = query::faults(text(set, "/timeSeriesQuery/prometheusQuery"));
            assert!(faults.is_empty(), "{title}: {faults:?}");
        }
    }
    assert!(charts >= 20, "{charts}");
    let mut targets = 0;
    for panel in list(&grafana(), "/panels") {
        for target in list(panel, "/targets") {
            targets += 1;
            let faults = query::faults(text(target, "/expr"));
            assert!(faults.is_empty(), "{}: {faults:?}", text(panel, "/title"));
        }
    }
    assert_eq!(targets, charts, "both show the same");
}

#[test]
fn every_metric_of_the_program_is_on_the_dashboard() {
    let (dashboard, grafana) = (dashboard().to_string(), grafana().to_string());
    for metric in worker::metrics::ALL {
        assert!(dashboard.contains(metric.name), "{} is on no tile", metric.name);
        assert!(grafana.contains(metric.name), "{} is on no panel", metric.name);
    }
}

#[test]
fn tiles_neither_overlap_nor_leave_the_page() {
    let dashboard = dashboard();
    let number = |value: &Value, name: &str| {
        value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}"))
    };
    let columns = number(&dashboard["mosaicLayout"], "columns");
    let boxes: Vec<_> = list(&dashboard, "/mosaicLayout/tiles")
        .iter()
        .map(|t| {
            let (x, y) = (number(t, "xPos"), number(t, "yPos"));
            (text(t, "/widget/title"), x, y, x + number(t, "width"), y + number(t, "height"))
        })
        .collect();
    for (i, (title, left, top, right, bottom)) in boxes.iter().enumerate() {
        assert!(*right <= columns, "{title}");
        for (other, l, t, r, b) in &boxes[i + 1..] {
            let apart = r <= left || right <= l || b <= top || bottom <= t;
            assert!(apart, "{title} and {other}");
        }
    }
}
