//! What requests may ask of the rows of layers: the parameters of a tileset, and the conditions that their values set.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::change_log::RequestValues;
use crate::hex::hex;
use crate::postgis::{
    Error, Facet, FacetChoice, FacetMatch, FacetType, FacetValue, Layer, WantedValues, parameter_array,
};
use crate::serve::{GivenParameter, GivenParameters, Parameter, ParameterType};

/// A parameter, and what its values choose of the layers that it affects.
#[derive(Debug, Clone)]
pub struct ParameterSettings {
    pub parameter: Parameter,
    /// By layer, a condition on the rows in SQL. It reads the parameter's values, which the session holds.
    pub(crate) conditions: BTreeMap<String, String>,
    /// See [`LayerCondition::is_tracked`].
    pub(crate) is_tracked: bool,
    /// By layer, the column of the facet. A layer has either this or a condition.
    pub(crate) facets: BTreeMap<String, String>,
    pub(crate) matching: FacetMatching,
    /// What its values stand for; `None` if they stand for themselves.
    pub(crate) map: Option<MapSection>,
}

/// The table that says what values stand for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MapSection {
    pub(crate) schema: Option<String>,
    pub(crate) table: String,
    /// The column of the values that requests give.
    pub(crate) from: String,
    /// The column of the values that they stand for.
    pub(crate) to: String,
}

/// How the values of a parameter choose rows by a facet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FacetMatching {
    Always(FacetMatch),
    /// As the value of another parameter says; a request without a value gets [`FacetMatch::Any`].
    From {
        parameter: String,
        values: BTreeMap<String, FacetMatch>,
    },
}

impl FacetMatching {
    fn possible(&self) -> Vec<FacetMatch> {
        match self {
            FacetMatching::Always(one) => vec![*one],
            FacetMatching::From { values, .. } => {
                let mut all: Vec<FacetMatch> = values.values().copied().chain([FacetMatch::Any]).collect();
                all.sort_unstable();
                all.dedup();
                all
            }
        }
    }

    fn asked(&self, given: &GivenParameters) -> FacetMatch {
        match self {
            FacetMatching::Always(one) => *one,
            FacetMatching::From { parameter, values } => {
                let other = given.given.iter().find(|other| other.name == *parameter);
                let value = other.and_then(|other| other.values.first()?.texts.first());
                value.and_then(|value| values.get(value)).copied().unwrap_or_default()
            }
        }
    }
}

/// A condition over several parameters.
#[derive(Debug, Clone)]
pub(crate) struct ConditionSettings {
    /// The names of the parameters that it reads.
    pub(crate) uses: Vec<String>,
    /// The values of parameters that a request does not give. Without a default of all that are not given, or if none
    /// is given, there is no condition.
    pub(crate) defaults: Vec<GivenParameter>,
    /// By layer, the condition on the rows in SQL.
    pub(crate) conditions: BTreeMap<String, String>,
    /// See [`LayerCondition::is_tracked`].
    pub(crate) is_tracked: bool,
}

impl ConditionSettings {
    /// The values of the parameters, in the order of `uses`, if a request sets the condition.
    fn asked<'v>(&'v self, given: &'v GivenParameters) -> Option<Vec<&'v GivenParameter>> {
        let of_name = |name: &String, all: &'v [GivenParameter]| all.iter().find(|one| one.name == *name);
        let is_set = self.uses.iter().any(|name| of_name(name, &given.given).is_some());
        let values = self.uses.iter().map(|name| of_name(name, &given.given).or_else(|| of_name(name, &self.defaults)));
        is_set.then(|| values.collect()).flatten()
    }
}

/// The values of a list of integers in a condition, as an array of `int8` or of `int4`.
pub(crate) fn integer_list(name: &str, of_each: &str) -> String {
    format!("({}::pg_catalog.{of_each}[])", parameter_array(name))
}

/// The value of a polygon in a condition. A subquery is evaluated once for all rows.
pub(crate) fn polygon_value(name: &str) -> String {
    format!("(SELECT ST_GeomFromText(({})[1], 4326))", parameter_array(name))
}

impl ParameterSettings {
    /// What stands for the values in conditions.
    fn values(&self) -> RequestValues {
        let Parameter { name, kind, .. } = &self.parameter;
        match kind {
            ParameterType::Polygon => RequestValues { sql: polygon_value(name), kind: "geometry" },
            _ => RequestValues { sql: parameter_array(name), kind: "pg_catalog.text[]" },
        }
    }

    /// Sample values of the parameter's type, as an array of the database in text form. The conditions are tried with
    /// them.
    #[must_use]
    pub const fn sample(&self) -> &'static str {
        match self.parameter.kind {
            ParameterType::Text => "{a}",
            ParameterType::Integer | ParameterType::Number => "{1}",
            ParameterType::Boolean => "{true}",
            ParameterType::Box => "{0,0,1,1}",
            ParameterType::Range => "{1,2}",
            ParameterType::Polygon => "{\"POLYGON((0 0,1 0,1 1,0 0))\"}",
        }
    }

    /// Refuses values outside of these limits.
    fn bound(&mut self, [least, greatest]: [i32; 2]) {
        let bounds = &mut self.parameter.bounds;
        bounds.min = Some(bounds.min.unwrap_or(f64::MIN).max(least.into()));
        bounds.max = Some(bounds.max.unwrap_or(f64::MAX).min(greatest.into()));
    }

    /// The facet of a layer that the values choose by.
    fn facet<'l>(&self, layer: &'l Layer) -> Option<&'l Facet> {
        let column = self.facets.get(layer.name())?;
        layer.facets.iter().find(|facet| facet.column == *column)
    }
}

/// Tells the conditions on the rows of one layer apart. The same key has the same SQL while the settings are the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ConditionKey {
    /// The condition of a parameter.
    Parameter(String),
    /// What is said by a parameter with a facet.
    Facet { parameter: String, matching: FacetMatch },
    /// The condition over several parameters with this number.
    Several(usize),
}

impl ConditionKey {
    pub(crate) const fn is_facet(&self) -> bool {
        matches!(self, ConditionKey::Facet { .. })
    }

    /// True if it is what a parameter with a facet says.
    pub(crate) fn is_facet_of(&self, name: &str) -> bool {
        matches!(self, ConditionKey::Facet { parameter, .. } if parameter == name)
    }

    /// The parameter that sets the condition; `None` if several do.
    pub(crate) fn parameter(&self) -> Option<&str> {
        match self {
            ConditionKey::Parameter(parameter) | ConditionKey::Facet { parameter, .. } => Some(parameter),
            ConditionKey::Several(_) => None,
        }
    }

    /// The memory beside the key itself, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.parameter().map_or(0, str::len)
    }
}

/// A condition that requests may set on the rows of a layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerCondition {
    pub(crate) key: ConditionKey,
    pub(crate) sql: String,
    pub(crate) values: Vec<RequestValues>,
    /// True if the configuration says that which rows fulfil it changes only with the row and with rows of the tables
    /// that the layer tracks. PostgreSQL itself knows it of conditions on a row alone, with immutable functions.
    pub(crate) is_tracked: bool,
}

/// A condition that a request sets on the rows of a layer.
#[derive(Debug, Clone)]
pub(crate) struct AskedCondition {
    pub(crate) key: ConditionKey,
    /// The values in their canonical form.
    pub(crate) values: String,
    pub(crate) sql: String,
    /// What `sql` says, if it is about a facet.
    pub(crate) facet: Option<FacetChoice>,
}

/// A condition that reads lists of integers, for one layer.
pub(crate) struct IntegerCondition {
    /// The place among the parameters' own conditions, or among those over several.
    place: ConditionPlace,
    pub(crate) layer: String,
    pub(crate) sql: String,
    /// The same with lists of 32 bits.
    pub(crate) narrower: String,
}

#[derive(Clone, Copy)]
enum ConditionPlace {
    OfParameter(usize),
    OfSeveral(usize),
}

/// What requests may ask of a tileset.
#[derive(Debug, Clone, Default)]
pub struct FilterSettings {
    /// The parameters, in the order of the configuration.
    pub parameters: Vec<ParameterSettings>,
    pub(crate) conditions: Vec<ConditionSettings>,
}

impl FilterSettings {
    /// What requests may ask of any of several tilesets.
    pub(crate) fn of_all(all: impl Iterator<Item = FilterSettings>) -> FilterSettings {
        all.fold(FilterSettings::default(), |mut joined, mut filters| {
            joined.parameters.append(&mut filters.parameters);
            joined.conditions.append(&mut filters.conditions);
            joined
        })
    }

    /// All conditions that requests may set on the rows of a layer.
    pub(crate) fn of_layer(&self, layer: &Layer) -> Vec<LayerCondition> {
        let mut all = Vec::new();
        for settings in &self.parameters {
            let name = &settings.parameter.name;
            if let Some(sql) = settings.conditions.get(layer.name()) {
                let key = ConditionKey::Parameter(name.clone());
                all.push(LayerCondition {
                    key,
                    sql: sql.clone(),
                    values: vec![settings.values()],
                    is_tracked: settings.is_tracked,
                });
            }
            let Some(facet) = settings.facet(layer) else { continue };
            for matching in settings.matching.possible() {
                let key = ConditionKey::Facet { parameter: name.clone(), matching };
                let sql = facet.condition(matching, name);
                all.push(LayerCondition { key, sql, values: vec![settings.values()], is_tracked: false });
            }
        }
        for (number, settings) in self.conditions.iter().enumerate() {
            if let Some(sql) = settings.conditions.get(layer.name()) {
                let is_used = |own: &&ParameterSettings| settings.uses.contains(&own.parameter.name);
                let values = self.parameters.iter().filter(is_used).map(ParameterSettings::values).collect();
                let (key, is_tracked) = (ConditionKey::Several(number), settings.is_tracked);
                all.push(LayerCondition { key, sql: sql.clone(), values, is_tracked });
            }
        }
        all
    }

    /// The facets of a layer by which requests choose, each with the parameter.
    pub(crate) fn facets_of<'l>(&self, layer: &'l Layer) -> Vec<(&ParameterSettings, &'l Facet)> {
        self.parameters.iter().filter_map(|own| Some((own, own.facet(layer)?))).collect()
    }

    /// The conditions that a request sets on the rows of a layer.
    pub(crate) fn asked(&self, given: &GivenParameters, layer: &Layer) -> Vec<AskedCondition> {
        let mut asked = Vec::new();
        for own in &given.given {
            let Some(settings) = self.parameters.iter().find(|settings| settings.parameter.name == own.name) else {
                continue;
            };
            let (name, values) = (&own.name, own.array());
            if let Some(sql) = settings.conditions.get(layer.name()) {
                let key = ConditionKey::Parameter(name.clone());
                asked.push(AskedCondition { key, values, sql: sql.clone(), facet: None });
            } else if let Some(facet) = settings.facet(layer) {
                let matching = settings.matching.asked(given);
                let key = ConditionKey::Facet { parameter: name.clone(), matching };
                let choice = FacetChoice { column: facet.column.clone(), wanted: wanted(own, matching) };
                let sql = facet.condition(matching, name);
                asked.push(AskedCondition { key, values, sql, facet: Some(choice) });
            }
        }
        for (number, settings) in self.conditions.iter().enumerate() {
            let Some(sql) = settings.conditions.get(layer.name()) else { continue };
            let Some(values) = settings.asked(given) else { continue };
            let values = values.into_iter().map(GivenParameter::array).collect();
            asked.push(AskedCondition { key: ConditionKey::Several(number), values, sql: sql.clone(), facet: None });
        }
        asked
    }

    /// Identifies what the parameters mean, with 16 hexadecimal digits. Another version of the program may give others.
    pub(crate) fn digest(&self) -> String {
        let parameters = self.parameters.iter().map(|own| {
            let map = own.map.as_ref().map(|map| (&map.schema, &map.table, &map.from, &map.to));
            let Parameter { name, kind, .. } = &own.parameter;
            format!("{name} {kind:?} {:?} {:?} {:?} {map:?}", own.conditions, own.facets, own.matching)
        });
        let conditions = self.conditions.iter().map(|own| format!("{own:?}"));
        hex(&Sha256::digest(parameters.chain(conditions).collect::<Vec<_>>().join("\n"))[..8])
    }

    /// True if a table says for which values those of a request stand.
    pub(crate) fn maps_any(&self, given: &GivenParameters) -> bool {
        let is_mapped = |own: &ParameterSettings| {
            own.parameter.map.is_some() && given.given.iter().any(|given| given.name == own.parameter.name)
        };
        self.parameters.iter().any(is_mapped)
    }

    /// The values that the conditions of a request read: those that it gives, and defaults of others.
    pub(crate) fn values<'v>(&'v self, given: &'v GivenParameters) -> Vec<&'v GivenParameter> {
        let mut values: Vec<&GivenParameter> = given.given.iter().collect();
        for value in self.conditions.iter().filter_map(|settings| settings.asked(given)).flatten() {
            if !values.iter().any(|other| other.name == value.name) {
                values.push(value);
            }
        }
        values
    }

    /// The conditions on the rows of a layer that the configuration has as SQL.
    pub(crate) fn written(&self, layer: &str) -> Vec<&str> {
        let of_parameters = self.parameters.iter().map(|settings| &settings.conditions);
        let all = of_parameters.chain(self.conditions.iter().map(|settings| &settings.conditions));
        all.filter_map(|conditions| conditions.get(layer)).map(String::as_str).collect()
    }

    /// The conditions that read lists of integers.
    pub(crate) fn of_integers(&self) -> Vec<IntegerCondition> {
        let of_parameters =
            (0..).zip(&self.parameters).map(|(at, one)| (ConditionPlace::OfParameter(at), &one.conditions));
        let of_several = (0..).zip(&self.conditions).map(|(at, one)| (ConditionPlace::OfSeveral(at), &one.conditions));
        let conditions = of_parameters
            .chain(of_several)
            .flat_map(|(place, conditions)| conditions.iter().map(move |(layer, sql)| (place, layer, sql)));
        let condition = |(place, layer, sql): (ConditionPlace, &String, &String)| {
            let narrower = self.parameters.iter().fold(sql.clone(), |sql, settings| {
                let name = &settings.parameter.name;
                sql.replace(&integer_list(name, "int8"), &integer_list(name, "int4"))
            });
            let (layer, sql) = (layer.clone(), sql.clone());
            (narrower != sql).then_some(IntegerCondition { place, layer, sql, narrower })
        };
        conditions.filter_map(condition).collect()
    }

    /// Lets a condition read lists of 32 bits. Its parameters then take such values alone.
    pub(crate) fn narrow(&mut self, condition: &IntegerCondition) {
        let narrower = condition.narrower.clone();
        match condition.place {
            ConditionPlace::OfParameter(at) => self.parameters[at].conditions.insert(condition.layer.clone(), narrower),
            ConditionPlace::OfSeveral(at) => self.conditions[at].conditions.insert(condition.layer.clone(), narrower),
        };
        for settings in &mut self.parameters {
            if condition.sql.contains(&integer_list(&settings.parameter.name, "int8")) {
                settings.bound([i32::MIN, i32::MAX]);
            }
        }
    }

    /// Fails if the facet of a layer does not have the type of its parameter.
    pub(crate) fn check_facets(&self, layer: &Layer) -> Result<(), Error> {
        for settings in &self.parameters {
            let Some(facet) = settings.facet(layer) else { continue };
            let Parameter { name, kind, .. } = &settings.parameter;
            let (fits, next) = match facet.of_each {
                FacetType::Text | FacetType::Varchar => (*kind == ParameterType::Text, "\"text\" or \"text[]\""),
                FacetType::Bool => (*kind == ParameterType::Boolean, "\"boolean\""),
                FacetType::Int2 | FacetType::Int4 | FacetType::Int8 if facet.is_array => {
                    (*kind == ParameterType::Integer, "\"integer\" or \"integer[]\"")
                }
                FacetType::Int2 | FacetType::Int4 | FacetType::Int8 => {
                    let fits = matches!(kind, ParameterType::Integer | ParameterType::Range);
                    (fits, "\"integer\", \"integer[]\" or \"range\"")
                }
            };
            if !fits {
                return Err(Error::Layer {
                    layer: layer.name().to_owned(),
                    what: format!(
                        "its facet \"{}\" is of type {}, and the parameter \"{name}\" of type {}",
                        facet.column,
                        facet.kind(),
                        kind.name()
                    ),
                    next: format!("Write type = {next} into the [[tileset.parameter]]"),
                    source: None,
                });
            }
        }
        Ok(())
    }

    /// The settings with closer bounds for parameters, where the facets of these layers cannot be compared with all
    /// values of 64 bits.
    pub(crate) fn within_facets<'l>(&self, layers: impl Iterator<Item = &'l Layer>) -> FilterSettings {
        let mut settings = self.clone();
        for layer in layers {
            for own in &mut settings.parameters {
                if let Some(limits) = own.facet(layer).and_then(Facet::limits) {
                    own.bound(limits);
                }
            }
        }
        settings
    }
}

/// The values that a request wants of a facet.
fn wanted(given: &GivenParameter, matching: FacetMatch) -> WantedValues {
    let texts = || given.values.iter().flat_map(|value| &value.texts);
    // The texts of integers were written by this program.
    let values = || {
        let value = |text: &String| match given.kind {
            ParameterType::Integer => {
                text.parse().map_or_else(|_text| FacetValue::Text(text.clone()), FacetValue::Integer)
            }
            ParameterType::Boolean => FacetValue::Boolean(text == "true"),
            ParameterType::Text
            | ParameterType::Number
            | ParameterType::Box
            | ParameterType::Range
            | ParameterType::Polygon => FacetValue::Text(text.clone()),
        };
        texts().map(value).collect()
    };
    match matching {
        FacetMatch::Any => WantedValues::Any(values()),
        FacetMatch::All => WantedValues::All(values()),
        FacetMatch::Range => {
            let mut bounds = texts().map(|text| text.parse().ok());
            let (least, greatest) = (bounds.next().flatten(), bounds.next().flatten());
            WantedValues::Range { least, greatest }
        }
    }
}
