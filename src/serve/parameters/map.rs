//! The values for which those of a request stand: a table of the database says it. What is rendered, counted and cached
//! goes by them; addresses have the values of the request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::RwLock;

use super::given::{BadQuery, key};
use super::{GivenParameter, GivenParameters, Parameter, ParameterType, ParameterValue, TilesetParameters, within};

/// The most values for which those of one parameter may stand together.
const MAX_VALUES: usize = 10_000;

/// The longest value for which others stand, in characters.
const MAX_CHARACTERS: usize = 1_000;

/// A row of the table: the value of a request, and one for which it stands.
pub(crate) type Synonym = (String, String);

/// What the values of a parameter stand for. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ValueMap(Arc<RwLock<BTreeMap<String, BTreeSet<String>>>>);

impl ValueMap {
    /// Replaces the map by the rows of a table.
    /// Fails, and leaves it as it was, if a row has what can be no value of the parameter.
    pub(crate) fn set(&self, parameter: &Parameter, rows: Vec<Synonym>) -> Result<(), String> {
        let mut map: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (given, meant) in rows {
            if meant.chars().nth(MAX_CHARACTERS).is_some() {
                return Err(format!("a value has more than {MAX_CHARACTERS} characters"));
            }
            if parameter.kind == ParameterType::Integer {
                let number: i64 = meant.parse().map_err(|_no_number| format!("{meant:?} is no whole number"))?;
                within(parameter, number as f64).map_err(|what| format!("{number} {what}"))?;
            }
            map.entry(given).or_default().insert(meant);
        }
        if *self.0.read() != map {
            *self.0.write() = map;
        }
        Ok(())
    }

    /// True if a value stands for this text, alone or among others.
    pub(crate) fn is_meant(&self, value: &ParameterValue, text: &str) -> bool {
        let map = self.0.read();
        match value.texts.first().and_then(|given| map.get(given)) {
            Some(meant) => meant.contains(text),
            None => value.texts == [text],
        }
    }

    /// The values for which those of a parameter stand. One that the table does not have stands for itself.
    fn of(&self, given: &GivenParameter) -> Result<Vec<ParameterValue>, BadQuery> {
        let map = self.0.read();
        let mut values = BTreeSet::new();
        for value in &given.values {
            match value.texts.first().and_then(|text| map.get(text)) {
                Some(meant) => values.extend(meant.iter().map(|text| ParameterValue { texts: vec![text.clone()] })),
                None => {
                    values.insert(value.clone());
                }
            }
            if values.len() > MAX_VALUES {
                return Err(BadQuery(format!(
                    "parameter {}: the values stand for more than {MAX_VALUES} others",
                    given.name
                )));
            }
        }
        Ok(values.into_iter().collect())
    }
}

impl GivenParameters {
    /// The values for which those of a request stand.
    /// Fails if they are too many.
    pub(crate) fn meant(self: Arc<Self>, declared: &TilesetParameters) -> Result<Arc<GivenParameters>, BadQuery> {
        let map_of = |name: &str| declared.0.iter().find(|parameter| parameter.name == name)?.map.as_ref();
        if self.given.iter().all(|given| map_of(&given.name).is_none()) {
            return Ok(self);
        }
        let meant = |given: &GivenParameter| match map_of(&given.name) {
            Some(map) => Ok(GivenParameter { values: map.of(given)?, ..given.clone() }),
            None => Ok(given.clone()),
        };
        let given = self.given.iter().map(meant).collect::<Result<Vec<_>, BadQuery>>()?;
        Ok(Arc::new(GivenParameters { key: key(&given), given }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::parameters::{LetterCase, ParameterBounds};

    #[test]
    fn a_value_is_offered_if_giving_it_finds_it() {
        let bounds = ParameterBounds {
            case: LetterCase::Lower,
            allowed: Vec::new(),
            pattern: None,
            max_length: 20,
            min: None,
            max: None,
        };
        let parameter = Parameter {
            name: "type".to_owned(),
            description: None,
            kind: ParameterType::Text,
            most: std::num::NonZeroUsize::new(5),
            bounds,
            map: Some(ValueMap::default()),
        };
        let rows = [("sewing", "Sewing"), ("cut and sew", "Cutting"), ("cut and sew", "Sewing"), ("mill", "weaving")];
        let rows = rows.map(|(given, meant)| (given.to_owned(), meant.to_owned())).to_vec();
        parameter.map.as_ref().unwrap().set(&parameter, rows).unwrap();
        let offered =
            ["Sewing", "Cutting", "weaving", "mill", "Dyeing", "dyeing", ""].map(|text| parameter.offers(text));
        assert_eq!(offered, [true, false, true, false, false, true, false]);
    }
}
