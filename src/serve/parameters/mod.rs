//! Live parameters: what a request for a live tile may ask in addition to its address, `…/{z}/{x}/{y}.pbf?country=BD&country=IN`.
//!
//! ```text
//! query ─► decoded, undeclared names dropped ─► typed, bounded ─► one order, no repeats ─► key of the tile, values bound in the database
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `declared` | the parameters of a tileset: their types and bounds |
//! | `value` | one value, checked and in its canonical form |
//! | `given` | the query of a request |
//! | `gate` | how many sets of values may be new in a minute |
//!
//! A value never becomes a part of an SQL text.

mod declared;
mod gate;
mod given;
mod value;

pub(crate) use declared::parameters_json;
pub use declared::{LetterCase, Parameter, ParameterBounds, ParameterType, TilesetParameters};
pub(crate) use gate::{KeyGate, NewKey, TooManyKeys};
pub(crate) use given::given;
pub use given::{GivenParameter, GivenParameters, ParametersKey, UndeclaredNames};
pub use value::ParameterValue;
