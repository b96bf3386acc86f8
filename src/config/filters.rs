//! What requests may ask of the rows of layers: the parameters of a tileset, and the conditions that their values set.

use std::collections::BTreeMap;

use crate::postgis::{Error, Facet, FacetChoice, FacetMatch, FacetType, FacetValue, Layer, WantedValues};
use crate::serve::{GivenParameter, GivenParameters, Parameter, ParameterType};

/// A parameter, and what its values choose of the layers that it affects.
#[derive(Debug, Clone)]
pub struct ParameterSettings {
    pub parameter: Parameter,
    /// By layer, a condition on the rows in SQL. It reads the parameter's values, which the session holds.
    pub(crate) conditions: BTreeMap<String, String>,
    /// By layer, the column of the facet. A layer has either this or a condition.
    pub(crate) facets: BTreeMap<String, String>,
    pub(crate) matching: FacetMatching,
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
                let mut all = Vec::from_iter(values.values().copied().chain([FacetMatch::Any]));
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

impl ParameterSettings {
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
        }
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
}

impl ConditionKey {
    pub(crate) const fn is_facet(&self) -> bool {
        matches!(self, ConditionKey::Facet { .. })
    }

    /// The memory beside the key itself, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            ConditionKey::Parameter(parameter) | ConditionKey::Facet { parameter, .. } => parameter.len(),
        }
    }
}

/// A condition that requests may set on the rows of a layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerCondition {
    pub(crate) key: ConditionKey,
    pub(crate) sql: String,
    /// The parameters whose values it reads.
    pub(crate) parameters: Vec<String>,
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

/// What requests may ask of a tileset.
#[derive(Debug, Clone, Default)]
pub struct FilterSettings {
    /// The parameters, in the order of the configuration.
    pub parameters: Vec<ParameterSettings>,
}

impl FilterSettings {
    /// All conditions that requests may set on the rows of a layer.
    pub(crate) fn of_layer(&self, layer: &Layer) -> Vec<LayerCondition> {
        let mut all = Vec::new();
        for settings in &self.parameters {
            let name = &settings.parameter.name;
            if let Some(sql) = settings.conditions.get(layer.name()) {
                let key = ConditionKey::Parameter(name.clone());
                all.push(LayerCondition { key, sql: sql.clone(), parameters: vec![name.clone()] });
            }
            let Some(facet) = settings.facet(layer) else { continue };
            for matching in settings.matching.possible() {
                let key = ConditionKey::Facet { parameter: name.clone(), matching };
                let sql = facet.condition(matching, name);
                all.push(LayerCondition { key, sql, parameters: vec![name.clone()] });
            }
        }
        all
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
        asked
    }

    /// The conditions on the rows of a layer that the configuration has as SQL.
    pub(crate) fn written(&self, layer: &str) -> Vec<&str> {
        self.parameters.iter().filter_map(|settings| settings.conditions.get(layer)).map(String::as_str).collect()
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
    #[expect(clippy::cast_precision_loss, reason = "the limits have at most 32 bits")]
    pub(crate) fn within_facets<'l>(&self, layers: impl Iterator<Item = &'l Layer>) -> FilterSettings {
        let mut settings = self.clone();
        for layer in layers {
            for own in &mut settings.parameters {
                let Some([least, greatest]) = own.facet(layer).and_then(Facet::limits) else { continue };
                let bounds = &mut own.parameter.bounds;
                bounds.min = Some(bounds.min.unwrap_or(f64::MIN).max(least as f64));
                bounds.max = Some(bounds.max.unwrap_or(f64::MAX).min(greatest as f64));
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
            ParameterType::Text | ParameterType::Number | ParameterType::Box | ParameterType::Range => {
                FacetValue::Text(text.clone())
            }
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
