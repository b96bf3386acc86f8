//! Prometheus' text format (text exposition format 0.0.4): gauges whose values are at hand, and the texts of
//! counted metrics, which are converted.

/// A value of a gauge, with its labels as the text between the braces.
pub(crate) struct GaugeValue {
    pub(crate) labels: String,
    pub(crate) value: f64,
}

pub(crate) fn gauge(name: &str, help: &str, values: &[GaugeValue]) -> String {
    let lines = values.iter().map(|GaugeValue { labels, value }| format!("{name}{{{labels}}} {value}\n"));
    format!("# HELP {name} {help}\n# TYPE {name} gauge\n") + &lines.collect::<String>()
}

/// The text between the quotes of a label's value.
pub(crate) fn label_value(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Turns the `OpenMetrics` text format into version 0.0.4, which every Prometheus reads: the descriptions of counters
/// have `_total` in their names, too, and there are no units and no end marker.
pub(crate) fn as_prometheus_text(text: &str) -> String {
    let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
    let name = |line: &str| line.split(' ').nth(2).unwrap_or_default().to_owned();
    let counters: Vec<String> = text.lines().filter(|line| is_counter(line)).map(name).collect();
    let mut converted = String::new();
    for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        if line.starts_with("# ") && counters.contains(&name(line)) {
            let own = name(line);
            converted.push_str(&line.replacen(&own, &format!("{own}_total"), 1));
        } else {
            converted.push_str(line);
        }
        converted.push('\n');
    }
    converted
}
