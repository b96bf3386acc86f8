//! Chance that can be had again: `SplitMix64` (Steele, Lea and Flood, 2014).

/// A source of chance.
pub(crate) struct Chance(u64);

impl Chance {
    /// The same seed gives the same chance.
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// True so often in a hundred.
    pub(crate) fn often(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Between two numbers.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
    pub(crate) fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (self.number() >> 11) as f64 / (1_u64 << 53) as f64 * (to - from)
    }

    /// One of some things.
    pub(crate) fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[usize::try_from(self.below(things.len() as u64)).unwrap()]
    }
}
