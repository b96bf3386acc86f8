//! One seed in shards: whatever is killed, started twice or comes late, and whoever writes meanwhile, the result is
//! that of one machine.

mod helpers;

mod faults;
mod killed;
mod order;
mod refusals;
mod resume;
mod same_as_a_seed;
mod schedulers;
mod servers;
mod shared_version;
mod states;
mod writers;
