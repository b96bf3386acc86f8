//! Prometheus metrics: the purges that wait, and which CDNs refuse them (text exposition format 0.0.4; the table is in docs/cdn.md).

use super::outbox::Outbox;
use super::queue::PurgeQueue;

/// A metric: its name, its help text, its value for a queue.
type QueueMetric = (&'static str, &'static str, fn(&PurgeQueue) -> f64);

#[expect(clippy::cast_precision_loss, reason = "a float is what Prometheus has")]
const METRICS: [QueueMetric; 4] = [
    ("oar_tiles_purge_waiting_tiles", "Changed tiles whose purge waits; -1 if all tiles of the target wait", |queue| {
        queue.tiles().count().map_or(-1.0, |count| count as f64)
    }),
    ("oar_tiles_purge_oldest_seconds", "Age of the oldest publish whose purge waits; 0 if no purge waits", |queue| {
        queue.oldest().unwrap_or(0) as f64
    }),
    ("oar_tiles_purge_month_items", "Items sent to the CDN in the last month in which any were", |queue| {
        queue.spent.items as f64
    }),
    ("oar_tiles_purge_stopped", "1 if the CDN refuses until somebody changes something", |queue| {
        f64::from(u8::from(queue.stopped.is_some()))
    }),
];

/// The metrics of an outbox; empty if it has no queue. `labels` are written before the CDN's labels, each followed by a comma.
#[must_use]
pub fn purge_metrics(outbox: &Outbox, labels: &str) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let of = |(name, help, value): &QueueMetric| {
        let lines: String = outbox
            .queues
            .iter()
            .map(|(queue, waits)| {
                let (provider, url) = queue.split_once(' ').unwrap_or((queue, ""));
                let (provider, url) = (escaped(provider), escaped(url));
                format!("{name}{{{labels}provider=\"{provider}\",url=\"{url}\"}} {}\n", value(waits))
            })
            .collect();
        format!("# HELP {name} {help}\n# TYPE {name} gauge\n{lines}")
    };
    if outbox.queues.is_empty() { String::new() } else { METRICS.iter().map(of).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::OutboxEntry;
    use super::*;
    use crate::tile::TileRectList;

    #[test]
    fn each_queue_has_a_line_of_each_metric() {
        assert_eq!(purge_metrics(&Outbox::default(), ""), "");
        let mut outbox = Outbox::default();
        let queue = outbox.queues.entry("fastly https://h/\"".to_owned()).or_default();
        queue.add(OutboxEntry::new(0, "x".to_owned(), TileRectList::of(["1/0/0".parse().unwrap()]), Vec::new()));
        queue.stopped = Some("403".to_owned());
        let text = purge_metrics(&outbox, "output=\"a\",");
        for line in ["waiting_tiles", "stopped"] {
            let line = format!("oar_tiles_purge_{line}{{output=\"a\",provider=\"fastly\",url=\"https://h/\\\"\"}} 1\n");
            assert!(text.contains(&line), "{text}");
        }
        outbox.queues.values_mut().for_each(|queue| queue.waiting[0].tiles = None);
        assert!(purge_metrics(&outbox, "").contains("waiting_tiles{provider=\"fastly\",url=\"https://h/\\\"\"} -1\n"));
    }
}
