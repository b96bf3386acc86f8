//! A simulated month: items, cost and staleness by provider. The table in docs/cdn.md ("What it costs") is what this
//! test prints.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use oar_tiles::cdn::{
    CloudFrontOptions, CloudflareOptions, CloudflarePlan, CommandOptions, FastlyOptions, FullPyramid, ItemKind,
    ItemPrice, NginxOptions, PlanRules, Provider, ProviderFacts, ProviderOptions, PurgeAllowance, PurgeBatch,
    PurgeBudget, PurgeBy, PurgeItem, PurgeOptions, PurgeSection, SecretSource, SpentItems, TileAddresses, TilesToPurge,
    TokenBucket, VarnishOptions, batches, names, plan, provider,
};
use oar_tiles::tile::{TileCoord, TilesetTag, Zoom, ZoomList};

/// The figures of a simulated month.
#[derive(Debug)]
struct SimulatedMonth {
    items: u64,
    dollars: f64,
    /// The median of the time from an edit to its purge, in seconds. `most` is the longest time.
    median: u64,
    most: u64,
    /// How many purges were of everything.
    everything: u64,
}

/// How a month is simulated.
struct MonthCase<'a> {
    provider: &'a dyn Provider,
    facts: ProviderFacts,
    by: PurgeBy,
    budget: PurgeBudget,
    seconds_between: u64,
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

/// The provider's own rates.
#[derive(Default)]
struct SimulatedPace(HashMap<ItemKind, (TokenBucket, TokenBucket)>);

impl SimulatedPace {
    /// The second in which the provider has accepted all batches, if they are sent from `now` on.
    fn taken(&mut self, case: &MonthCase<'_>, batches: &[PurgeBatch], clock: Instant, now: u64) -> u64 {
        let mut at = clock + Duration::from_secs(now);
        for batch in batches {
            let limits = case.provider.limits(batch.kind);
            let new = || (TokenBucket::new(limits.requests, clock), TokenBucket::new(limits.items, clock));
            let (requests, items) = self.0.entry(batch.kind).or_insert_with(new);
            let count = f64::from(u32::try_from(batch.names.len()).unwrap());
            for (bucket, amount) in [(requests, 1.0), (items, count)] {
                while let Err(wait) = bucket.take(amount, at) {
                    at += wait;
                }
            }
        }
        let passed = at - clock;
        passed.as_secs() + u64::from(passed.subsec_nanos() > 0)
    }
}

/// Simulates thirty days of edits at even intervals. Without a budget all days are alike: then only the time of 300
/// edits is simulated, and the figures are scaled up to the month.
fn month(case: &MonthCase<'_>) -> SimulatedMonth {
    const MONTH: u64 = 30 * 86_400;
    let facts = case.facts;
    let zooms: ZoomList = "0-14".parse().unwrap();
    let addresses = TileAddresses::new("https://h/".parse().unwrap(), vec!["{z}/{x}/{y}.pbf".to_owned()]);
    let begin = humantime::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
    let (clock, mut pace) = (Instant::now(), SimulatedPace::default());
    let mut spent = SpentItems::default();
    let mut waiting: Vec<u64> = Vec::new();
    let (mut ages, mut everything, mut now, mut next, mut items) = (Vec::new(), 0, 0, 0, 0_u64);
    let end = match case.budget.items_per_month {
        Some(_) => MONTH,
        None => 300 * case.seconds_between,
    };
    while next < end || !waiting.is_empty() {
        if waiting.is_empty() {
            now = now.max(next);
        }
        while next <= now && next < end {
            waiting.push(next);
            next += case.seconds_between;
        }
        match case.budget.allowance(&spent, begin + Duration::from_secs(now)) {
            PurgeAllowance::Wait(wait) => now += wait.as_secs().max(1),
            PurgeAllowance::Items(allowed) => {
                // If one edit alone takes more items than allowed, planning the others, too, would change nothing.
                let of_one = if case.by == PurgeBy::Tag { 4 } else { 15 };
                let planned = if allowed < of_one { &waiting[..1] } else { &waiting[..] };
                let tiles = planned.iter().flat_map(|time| edited(time / case.seconds_between));
                let tiles = TilesToPurge::listed(tiles);
                let rules = PlanRules {
                    by: case.by,
                    mixes: facts.mixes,
                    max_items: allowed.min(facts.max_items),
                    tag: TilesetTag::of("n"),
                    zooms: zooms.clone(),
                    untagged: TilesToPurge::default(),
                };
                let plan = plan(&tiles, &[], &addresses, &FullPyramid(zooms.clone()), &rules);
                let batches = batches(&names(&plan.items, &addresses), |kind| case.provider.limits(kind), "1");
                spent = PurgeBudget::after(&spent, plan.items.len(), begin + Duration::from_secs(now));
                items += plan.items.len() as u64;
                let is_all = plan.items == [PurgeItem::Everything] || plan.items == [PurgeItem::Tag("n".to_owned())];
                everything += u64::from(is_all);
                now = pace.taken(case, &batches, clock, now);
                ages.extend(waiting.drain(..).map(|time| now - time));
            }
        }
    }
    ages.sort_unstable();
    let (items, everything) = (items * MONTH / end, everything * MONTH / end);
    let dollars = facts.price.dollars_of(items);
    SimulatedMonth { items, dollars, median: ages[ages.len() / 2], most: *ages.last().unwrap(), everything }
}

/// All providers with their default settings.
fn providers(token: &std::path::Path) -> Vec<ProviderOptions> {
    let token = SecretSource::File(token.to_owned());
    let caches = vec!["http://127.0.0.1".to_owned()];
    let cloudflare = |plan| {
        let (zone, origins) = ("z".to_owned(), Vec::new());
        ProviderOptions::Cloudflare(CloudflareOptions { zone, token: token.clone(), plan, origins, endpoint: None })
    };
    vec![
        ProviderOptions::CloudFront(CloudFrontOptions { distribution: "E".to_owned(), profile: None, endpoint: None }),
        ProviderOptions::Fastly(FastlyOptions {
            service: "s".to_owned(),
            token: token.clone(),
            soft: true,
            endpoint: None,
        }),
        cloudflare(CloudflarePlan::Free),
        cloudflare(CloudflarePlan::Pro),
        ProviderOptions::Varnish(VarnishOptions { caches: caches.clone(), token: None, soft: true }),
        ProviderOptions::Nginx(NginxOptions { caches, token: None, wildcards: false }),
        ProviderOptions::Command(CommandOptions {
            program: vec!["true".to_owned()],
            max_items: 10_000,
            token_variable: None,
            others_variables: Vec::new(),
        }),
    ]
}

fn shown(seconds: u64) -> String {
    match seconds {
        0..=1 => "at once".to_owned(),
        2..=119 => format!("{seconds} s"),
        _ => format!("{} min", seconds.div_ceil(60)),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// Tests the rows of the manual's table, and what a budget promises.
#[test]
fn a_budget_is_kept_whatever_is_edited_and_the_manual_says_what_it_comes_to() {
    let mut token = tempfile::NamedTempFile::new().unwrap();
    token.write_all(b"0123456789").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut table = String::new();
    let options = |provider: &ProviderOptions| PurgeOptions {
        section: PurgeSection::default(),
        provider: provider.clone(),
        url: "https://h/".parse().unwrap(),
        budget: PurgeBudget { items_per_month: None, min_interval: Duration::ZERO },
        rebound: None,
    };
    for given in providers(token.path()) {
        let provider = runtime.block_on(provider(&options(&given))).unwrap();
        let facts = given.facts();
        let costs = facts.price != ItemPrice::FREE;
        let min_interval = Duration::from_secs(if costs { 60 } else { 0 });
        let plan = match &given {
            ProviderOptions::Cloudflare(options) => format!(" ({:?})", options.plan).to_lowercase(),
            _ => String::new(),
        };
        let kinds = [facts.takes[0], PurgeBy::Tag].into_iter().filter(|by| facts.takes.contains(by));
        for by in kinds {
            let limits: &[u64] = match (costs, by) {
                (false, _) => &[0],
                (true, PurgeBy::Tag) => &[0, 1_000, 15_000],
                (true, _) => &[0, 1_000],
            };
            for limit in limits {
                for (edits, seconds_between) in [("100 a day", 864), ("10 a minute", 6)] {
                    let budget = PurgeBudget { items_per_month: NonZeroU64::new(*limit), min_interval };
                    let case = MonthCase { provider: &*provider, facts, by, budget, seconds_between };
                    let month = month(&case);
                    if *limit > 0 {
                        // The last purges may fall into the next month, of which a day's items are allowed in advance.
                        assert!(month.items <= limit + limit / 30 + 1, "{month:?}");
                        // The time in which one item accrues (30 days divided by the items), and the minute between two
                        // purges.
                        assert!(month.most <= 31 * 86_400 / limit + 120, "{month:?}");
                    } else {
                        assert!(month.most <= 600 && month.everything == 0, "{} {month:?}", facts.name);
                    }
                    let limit = if *limit > 0 { format!(", {} a month", thousands(*limit)) } else { String::new() };
                    let cold = if month.everything == 0 {
                        "never".to_owned()
                    } else {
                        format!("{} times", thousands(month.everything))
                    };
                    let by = format!("{by:?}").to_lowercase();
                    writeln!(
                        table,
                        "| {}{plan} | `{by}`{limit} | {edits} | {} | ${:.0} | {}, {} | {cold} |",
                        facts.name,
                        thousands(month.items),
                        month.dollars,
                        shown(month.median),
                        shown(month.most)
                    )
                    .unwrap();
                }
            }
        }
    }
    let manual = std::fs::read_to_string(crate::support::repository("docs/cdn.md")).unwrap();
    assert!(manual.contains(&table), "docs/cdn.md has other figures than these:\n{table}");
}
