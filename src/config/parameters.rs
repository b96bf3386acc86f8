//! The sections `[[tileset.parameter]]`, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use regex_lite::RegexBuilder;

use super::error::ConfigError;
use super::file::{
    AllowedValue, ConditionSection, DefaultValue, MatchFrom, MatchSection, ParameterSection, TilesetSection, ValueType,
};
use super::filters::{
    ConditionSettings, FacetMatching, FilterSettings, ParameterSettings, integer_list, polygon_value,
};
use super::settings::{Check, first_repeated};
use crate::postgis::{FacetMatch, LayerOptions, LayerSection, parameter_array};
use crate::serve::{
    GivenParameter, LetterCase, POSTED_NAME, PUBLICATION_NAME, Parameter, ParameterBounds, ParameterType, ValueMap,
};

/// The most parameters of a tileset.
const MAX_PARAMETERS: usize = 32;

/// The longest name of a parameter, in bytes. The database setting that holds its values contains the name, and a
/// setting's name has at most 63 bytes.
const MAX_NAME_BYTES: usize = 40;

/// The default of `max_length`, in characters.
const MAX_LENGTH: usize = 100;

const MAX_VALUES: usize = 20;

/// The largest `max_length`: a request's query has at most 8 KiB.
const MOST_CHARACTERS: usize = 1_000;

/// The largest `max_values`: a posted filter has at most 256 KiB.
const MOST_VALUES: usize = 10_000;

/// The most memory that a compiled pattern takes, in bytes.
const MAX_PATTERN_BYTES: usize = 64 << 10;

/// The values as SQL of the parameter's type.
fn sql_of(name: &str, kind: ParameterType, is_list: bool) -> String {
    let array = parameter_array(name);
    match (kind, is_list) {
        (ParameterType::Box, _) => {
            let side = |index: u8| format!("({array})[{index}]::pg_catalog.float8");
            format!("(ST_MakeEnvelope({}, {}, {}, {}, 4326))", side(1), side(2), side(3), side(4))
        }
        (ParameterType::Polygon, _) => polygon_value(name),
        (ParameterType::Range, _) => {
            let bound = |index: u8| format!("({array})[{index}]::pg_catalog.int8");
            format!("(pg_catalog.int8range({}, {}, '[]'))", bound(1), bound(2))
        }
        (ParameterType::Integer, true) => integer_list(name, "int8"),
        (ParameterType::Text, true) => format!("({array})"),
        (kind, true) => format!("({array}::pg_catalog.{}[])", base(kind)),
        (kind, false) => format!("(({array})[1]::pg_catalog.{})", base(kind)),
    }
}

/// The SQL of a condition, with a comment if it is said to be tracked: the change log knows conditions by their SQL, so
/// that this is believed only as long as the configuration says it.
fn marked(sql: String, is_tracked: bool) -> String {
    if is_tracked { format!("/* tracked */ {sql}") } else { sql }
}

/// The type of one value in the database.
const fn base(kind: ParameterType) -> &'static str {
    match kind {
        ParameterType::Text | ParameterType::Box | ParameterType::Polygon => "text",
        ParameterType::Integer | ParameterType::Range => "int8",
        ParameterType::Number => "float8",
        ParameterType::Boolean => "bool",
    }
}

impl Check<'_> {
    /// What requests may ask of a tileset with the layers `layers` of all layers of the file.
    pub(crate) fn filters(
        &self,
        tileset: &TilesetSection,
        layers: &[LayerOptions],
        all_layers: &[LayerSection],
    ) -> Result<FilterSettings, ConfigError> {
        let sections = &tileset.parameter;
        if sections.len() > MAX_PARAMETERS {
            let what = format!("are {}, and a tileset has at most {MAX_PARAMETERS}", sections.len());
            return Err(self.wrong("tileset.parameter", what));
        }
        for (at, section) in sections.iter().enumerate() {
            if sections[..at].iter().any(|other| other.name == section.name) {
                let what = format!("has two called \"{}\": give each its own name", section.name);
                return Err(self.wrong("tileset.parameter", what));
            }
        }
        let parameter = |section| {
            let matching = self.matching(section, sections)?;
            self.parameter(section, matching, layers, all_layers)
        };
        let parameters: Vec<ParameterSettings> = sections.iter().map(parameter).collect::<Result<_, _>>()?;
        let mut conditions: Vec<ConditionSettings> = Vec::new();
        if tileset.condition.len() > MAX_PARAMETERS {
            let what = format!("are {}, and a tileset has at most {MAX_PARAMETERS}", tileset.condition.len());
            return Err(self.wrong("tileset.condition", what));
        }
        for section in &tileset.condition {
            let condition = self.condition(section, &parameters, layers, all_layers)?;
            for default in &condition.defaults {
                let mut others = conditions.iter().flat_map(|other| &other.defaults);
                if others.any(|other| other.name == default.name && other != default) {
                    let what = format!("gives {} two defaults: write the same one each time", default.name);
                    return Err(self.wrong("tileset.condition", what));
                }
            }
            conditions.push(condition);
        }
        Ok(FilterSettings { parameters, conditions })
    }

    /// A condition over several parameters.
    fn condition(
        &self,
        section: &ConditionSection,
        parameters: &[ParameterSettings],
        layers: &[LayerOptions],
        all_layers: &[LayerSection],
    ) -> Result<ConditionSettings, ConfigError> {
        let called = section.uses.join(", ");
        let wrong = |field: &str, what: String| self.wrong("tileset.condition", format!("[{called}].{field} {what}"));
        let of_name = |name: &str| parameters.iter().find(|settings| settings.parameter.name == *name);
        if section.uses.is_empty() {
            return Err(wrong("uses", "is empty: name the parameters that it reads".to_owned()));
        }
        if let Some(twice) = first_repeated(section.uses.iter()) {
            return Err(wrong("uses", format!("names \"{twice}\" twice: name each parameter once")));
        }
        if let Some(unknown) = section.uses.iter().find(|name| of_name(name).is_none()) {
            return Err(wrong("uses", format!("names the parameter \"{unknown}\", which is not there")));
        }
        if section.conditions.is_empty() {
            return Err(wrong("where", "is empty: write a condition for a layer".to_owned()));
        }
        let place = |name: &str| format!("!{name}!");
        for (layer, sql) in &section.conditions {
            self.narrows("tileset.condition", &called, layer, layers, all_layers)?;
            let is_there = |settings: &&ParameterSettings| sql.contains(&place(&settings.parameter.name));
            let other = parameters.iter().filter(is_there).find(|one| !section.uses.contains(&one.parameter.name));
            if let Some(other) = other {
                let name = &other.parameter.name;
                return Err(wrong(
                    "where",
                    format!("has !{name}!, which uses does not name: write \"{name}\" into it"),
                ));
            }
        }
        let is_unread = |name: &&String| !section.conditions.values().any(|sql| sql.contains(&place(name)));
        if let Some(unread) = section.uses.iter().find(is_unread) {
            return Err(wrong("where", format!("does not contain !{unread}!, which stands for the values")));
        }
        let mut defaults = Vec::new();
        for (name, value) in &section.default {
            let Some(settings) = of_name(name).filter(|_| section.uses.contains(name)) else {
                return Err(wrong("default", format!("names \"{name}\", which uses does not name")));
            };
            let values = match value {
                DefaultValue::One(one) => std::slice::from_ref(one),
                DefaultValue::Several(several) => several,
            };
            let texts: Vec<String> = values.iter().map(AllowedValue::text).collect();
            let default = GivenParameter::of_texts(&settings.parameter, &texts);
            defaults.push(default.map_err(|what| wrong("default", format!("{name}: {what}")))?);
        }
        let filled = |sql: &String| {
            section.uses.iter().filter_map(|name| of_name(name)).fold(sql.clone(), |sql, settings| {
                let Parameter { name, kind, most, .. } = &settings.parameter;
                sql.replace(&place(name), &sql_of(name, *kind, most.is_some()))
            })
        };
        let conditions = section.conditions.iter();
        let conditions = conditions.map(|(layer, sql)| (layer.clone(), marked(filled(sql), section.tracked)));
        Ok(ConditionSettings {
            uses: section.uses.clone(),
            defaults,
            conditions: conditions.collect(),
            is_tracked: section.tracked,
        })
    }

    /// Fails if requests cannot narrow a layer by a condition: it is not there, or a function gives its tiles.
    fn narrows(
        &self,
        key: &str,
        called: &str,
        layer: &str,
        layers: &[LayerOptions],
        all_layers: &[LayerSection],
    ) -> Result<(), ConfigError> {
        if !all_layers.iter().any(|own| own.name == *layer) {
            return Err(self.wrong(key, format!("[{called}].where names the layer \"{layer}\", which is not there")));
        }
        let of_function = |settings: &LayerOptions| {
            settings.name == *layer && matches!(settings.kind, crate::postgis::LayerKind::Function(_))
        };
        if layers.iter().any(of_function) {
            let what = format!(
                "[{called}].where has a condition for the layer \"{layer}\", whose tiles a function gives: it gets the values in its last argument; leave the condition out"
            );
            return Err(self.wrong(key, what));
        }
        Ok(())
    }

    /// How the values of a parameter choose rows by its facets.
    fn matching(&self, section: &ParameterSection, all: &[ParameterSection]) -> Result<FacetMatching, ConfigError> {
        let wrong = |what: String| Err(self.wrong("tileset.parameter", format!("[{}].match {what}", section.name)));
        let is_range = section.kind.of_each == ParameterType::Range;
        let Some(matching) = &section.matching else {
            return Ok(FacetMatching::Always(if is_range { FacetMatch::Range } else { FacetMatch::Any }));
        };
        if section.facet.is_empty() {
            return wrong("is for a parameter with facet: leave it out".to_owned());
        }
        let MatchFrom { from, values } = match matching {
            MatchSection::Always(FacetMatch::Range) if !is_range => {
                return wrong(
                    "is \"range\", for which values are written as 10..20: write type = \"range\"".to_owned(),
                );
            }
            MatchSection::Always(matching) if is_range && *matching != FacetMatch::Range => {
                return wrong(format!("is \"{}\", and the type is range: leave it out", matching.name()));
            }
            MatchSection::Always(matching) => return Ok(FacetMatching::Always(*matching)),
            MatchSection::From(_) if is_range => {
                return wrong("is a table, and the type is range: leave it out".to_owned());
            }
            MatchSection::From(from) => from,
        };
        let Some(other) = all.iter().find(|other| other.name == *from) else {
            return wrong(format!("names the parameter \"{from}\", which is not there"));
        };
        if (other.kind.of_each, other.kind.is_list) != (ParameterType::Text, false) {
            return wrong(format!("names the parameter \"{from}\", which must be of type text"));
        }
        if values.values().any(|matching| *matching == FacetMatch::Range) {
            return wrong("has \"range\": write \"any\" or \"all\" for each value".to_owned());
        }
        let case = other.case.unwrap_or_default();
        let values: BTreeMap<String, FacetMatch> =
            values.iter().map(|(value, matching)| (in_case(value.clone(), case), *matching)).collect();
        let allowed: BTreeSet<String> =
            other.allowed.iter().flatten().map(|value| in_case(value.text(), case)).collect();
        // Otherwise a value that means nothing would be taken for "any".
        if !values.keys().eq(&allowed) {
            let allowed: Vec<String> = values.keys().map(|value| format!("\"{value}\"")).collect();
            let what = format!(
                "must have an entry for each allowed value of the parameter \"{from}\", and no other: write allowed = [{}] into that",
                allowed.join(", ")
            );
            return wrong(what);
        }
        Ok(FacetMatching::From { parameter: from.clone(), values })
    }

    fn check_name(&self, name: &str) -> Result<(), ConfigError> {
        let wrong = |what: String| Err(self.wrong("tileset.parameter", format!("[{name}] {what}")));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins_plain = name.starts_with(|c: char| c.is_ascii_lowercase());
        if !begins_plain || !name.chars().all(is_plain) || name.len() > MAX_NAME_BYTES {
            return wrong(format!(
                "is no name: write a letter from a to z, then such letters, digits and _, at most {MAX_NAME_BYTES} together"
            ));
        }
        if name == POSTED_NAME {
            return wrong("has the name of the ids of posted filters: give it another one".to_owned());
        }
        if name == PUBLICATION_NAME {
            return wrong("has the name by which addresses name a publication: give it another one".to_owned());
        }
        Ok(())
    }

    fn parameter(
        &self,
        section: &ParameterSection,
        matching: FacetMatching,
        layers: &[LayerOptions],
        all_layers: &[LayerSection],
    ) -> Result<ParameterSettings, ConfigError> {
        let name = &section.name;
        let wrong = |field: &str, what: String| {
            let field = if field.is_empty() { String::new() } else { format!(".{field}") };
            self.wrong("tileset.parameter", format!("[{name}]{field} {what}"))
        };
        self.check_name(name)?;
        let ValueType { of_each: kind, is_list } = section.kind;
        let is_text = kind == ParameterType::Text;
        let is_number = matches!(kind, ParameterType::Integer | ParameterType::Number);
        let is_bounded = is_number || kind == ParameterType::Range;
        for (field, is_set, fits) in [
            ("case", section.case.is_some(), is_text),
            ("pattern", section.pattern.is_some(), is_text),
            ("max_length", section.max_length.is_some(), is_text),
            ("allowed", section.allowed.is_some(), is_text || is_number),
            ("min", section.min.is_some(), is_bounded),
            ("max", section.max.is_some(), is_bounded),
            ("max_values", section.max_values.is_some(), is_list),
            ("map", section.map.is_some(), is_text || kind == ParameterType::Integer),
            (
                "facet",
                !section.facet.is_empty(),
                !matches!(kind, ParameterType::Number | ParameterType::Box | ParameterType::Polygon),
            ),
        ] {
            if is_set && !fits {
                return Err(wrong(field, format!("has no meaning for the type {}: leave it out", kind.name())));
            }
        }
        if section.map.is_some() && !is_list {
            let what =
                format!("needs a list, because a value may stand for several: write type = \"{}[]\"", kind.name());
            return Err(wrong("map", what));
        }
        let most = |field: &'static str, given: Option<NonZeroUsize>, default: usize, greatest: usize| {
            let most = given.map_or(default, NonZeroUsize::get);
            if most > greatest {
                Err(wrong(field, format!("is {most}, and must not be more than {greatest}")))
            } else {
                Ok(most)
            }
        };
        let max_values = most("max_values", section.max_values, MAX_VALUES, MOST_VALUES)?;
        let case = section.case.unwrap_or_default();
        let pattern = section.pattern.as_ref().map(|pattern| {
            let whole = RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(MAX_PATTERN_BYTES).build();
            whole.map_err(|error| wrong("pattern", format!("is no pattern ({error})")))
        });
        let bounds = ParameterBounds {
            case,
            allowed: section.allowed.iter().flatten().map(|value| in_case(value.text(), case)).collect(),
            pattern: pattern.transpose()?,
            max_length: most("max_length", section.max_length, MAX_LENGTH, MOST_CHARACTERS)?,
            min: section.min,
            max: section.max,
        };
        let conditions = section.conditions.iter().map(|(layer, sql)| {
            let place = format!("!{name}!");
            self.narrows("tileset.parameter", name, layer, layers, all_layers)?;
            if !sql.contains(&place) {
                return Err(wrong(
                    "where",
                    format!("does not contain {place}, which stands for the values, for the layer \"{layer}\""),
                ));
            }
            let filled = sql.replace(&place, &sql_of(name, kind, is_list));
            Ok((layer.clone(), marked(filled, section.tracked)))
        });
        let conditions: BTreeMap<String, String> = conditions.collect::<Result<_, _>>()?;
        for (layer, column) in &section.facet {
            let Some(own) = all_layers.iter().find(|own| own.name == *layer) else {
                return Err(wrong("facet", format!("names the layer \"{layer}\", which is not there")));
            };
            if !own.facets.contains(column) {
                let all: Vec<String> = own.facets.iter().chain([column]).map(|name| format!("\"{name}\"")).collect();
                let what = format!(
                    "names \"{column}\", which is no facet of the layer \"{layer}\": write facets = [{}] into the [[layer]]",
                    all.join(", ")
                );
                return Err(wrong("facet", what));
            }
            if section.conditions.contains_key(layer) {
                let what = format!("stands beside where for the layer \"{layer}\": write one of them");
                return Err(wrong("facet", what));
            }
        }
        if section.tracked && conditions.is_empty() {
            return Err(wrong("tracked", "is about the SQL of where, which is not there: leave it out".to_owned()));
        }
        let parameter = Parameter {
            name: name.clone(),
            description: section.description.clone(),
            kind,
            most: is_list.then(|| NonZeroUsize::new(max_values)).flatten(),
            bounds,
            map: section.map.as_ref().map(|_table| ValueMap::default()),
        };
        let (facets, map) = (section.facet.clone(), section.map.clone());
        Ok(ParameterSettings { parameter, conditions, is_tracked: section.tracked, facets, matching, map })
    }
}

fn in_case(text: String, case: LetterCase) -> String {
    match case {
        LetterCase::Keep => text,
        LetterCase::Lower => text.to_lowercase(),
        LetterCase::Upper => text.to_uppercase(),
    }
}
