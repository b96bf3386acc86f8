//! A simulated month: items, cost and staleness by provider, for the table in docs/cdn.md ("What it costs").

use std::time::Duration;

use super::*;
use crate::tile::{TileCoord, Zoom, ZoomList};

/// What a month came to.
#[derive(Debug)]
struct SimulatedMonth {
    items: u64,
    dollars: f64,
    /// From the edit to the purge: median and most, in seconds.
    median: u64,
    most: u64,
    /// How many purges were of everything.
    everything: u64,
}

/// The tiles of an edit at zooms 0 to 14, at a place that depends on its number.
fn edited(number: u64) -> Vec<TileCoord> {
    let spread = |salt: u64| {
        let mixed =
            (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ salt).rotate_left(31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        u32::try_from(mixed >> 50).unwrap()
    };
    let (x, y) = (spread(1), spread(2));
    (0..=14_u8)
        .map(|zoom| TileCoord::new(Zoom::new(zoom).unwrap(), x >> (14 - zoom), y >> (14 - zoom)).unwrap())
        .collect()
}

/// Thirty days of edits at even distances.
fn month(provider: &ProviderOptions, by: PurgeBy, budget: PurgeBudget, seconds_between: u64) -> SimulatedMonth {
    let facts = provider.facts();
    let zooms: ZoomList = "0-14".parse().unwrap();
    let addresses = TileAddresses::new("https://h/".parse().unwrap(), vec!["{z}/{x}/{y}.pbf".to_owned()]);
    let begin = humantime::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
    let at = |seconds: u64| begin + Duration::from_secs(seconds);
    let mut spent = SpentItems::default();
    let mut waiting: Vec<(u64, Vec<TileCoord>)> = Vec::new();
    let (mut ages, mut everything, mut now, mut next, mut items) = (Vec::new(), 0, 0, 0, 0_u64);
    let end = 30 * 86_400;
    while next < end {
        now = now.max(next);
        while next <= now && next < end {
            waiting.push((next, edited(next / seconds_between)));
            next += seconds_between;
        }
        match budget.allowance(&spent, at(now)) {
            PurgeAllowance::Wait(wait) => now += wait.as_secs().max(1),
            PurgeAllowance::Items(allowed) => {
                let tiles = TilesToPurge::listed(waiting.iter().flat_map(|(_, tiles)| tiles.iter().copied()));
                let rules = PlanRules {
                    by,
                    mixes: facts.mixes,
                    max_items: allowed.min(facts.max_items),
                    tag: TilesetTag::of("n"),
                    zooms: zooms.clone(),
                };
                let plan = plan(&tiles, &[], &addresses, &FullPyramid(zooms.clone()), &rules);
                let count = plan.items.len();
                spent = PurgeBudget::after(&spent, count, at(now));
                items += count as u64;
                let is_all = plan.items == [PurgeItem::Everything] || plan.items == [PurgeItem::Tag("n".to_owned())];
                everything += u64::from(is_all);
                ages.extend(waiting.drain(..).map(|(time, _)| now - time));
            }
        }
    }
    ages.sort_unstable();
    let dollars = facts.price.dollars_of(items);
    SimulatedMonth { items, dollars, median: ages[ages.len() / 2], most: *ages.last().unwrap(), everything }
}

fn cloudfront() -> ProviderOptions {
    ProviderOptions::CloudFront(CloudFrontOptions { distribution: "E".to_owned(), profile: None, endpoint: None })
}

fn budget(items: u64, seconds: u64) -> PurgeBudget {
    PurgeBudget { items_per_month: std::num::NonZeroU64::new(items), min_interval: Duration::from_secs(seconds) }
}

/// Prints the figures of the table (`--nocapture` shows them), and asserts the budgets.
#[test]
fn a_budget_is_kept_whatever_is_edited() {
    for (edits, between) in [("100 a day", 864), ("10 a minute", 6)] {
        for (name, by, limit) in [
            ("path", PurgeBy::Path, 0),
            ("path, 1,000 a month", PurgeBy::Path, 1_000),
            ("tag", PurgeBy::Tag, 0),
            ("tag, 1,000 a month", PurgeBy::Tag, 1_000),
            ("tag, 15,000 a month", PurgeBy::Tag, 15_000),
        ] {
            if between == 6 && limit != 1_000 {
                // Tens of thousands of plans take a minute without optimization.
                continue;
            }
            let month = month(&cloudfront(), by, budget(limit, 60), between);
            let SimulatedMonth { items, dollars, median, most, everything } = month;
            println!("| {edits} | {name} | {items} | ${dollars:.0} | {median} s | {most} s | {everything} |");
            if limit > 0 {
                // The last purge may fall into the next month, a day of which is allowed in advance.
                assert!(month.items <= limit + limit / 30, "{month:?}");
                // 30 days over the items, and the minute between two purges.
                let longest = 31 * 86_400 / limit + 120;
                assert!(month.most <= longest, "{month:?}, {longest} s");
            } else {
                assert!(month.most <= 120 && month.everything == 0, "{month:?}");
            }
        }
    }
}
