//! The sections `[[tileset.parameter]]`, checked.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use regex_lite::RegexBuilder;

use super::error::ConfigError;
use super::file::{ParameterSection, ValueType};
use super::settings::Check;
use super::settings::ParameterSettings;
use crate::postgis::{LayerOptions, parameter_array};
use crate::serve::{LetterCase, Parameter, ParameterBounds, ParameterType};

/// The most parameters of a tileset.
const MAX_PARAMETERS: usize = 32;

/// The longest name of a parameter, in bytes. The database setting that holds its values contains the name, and a
/// setting's name has at most 63 bytes.
const MAX_NAME_BYTES: usize = 40;

/// The default of `max_length`, in characters.
const MAX_LENGTH: usize = 100;

const MAX_VALUES: usize = 20;

/// The largest `max_length` and `max_values`: a request's query has at most 8 KiB.
const MAX_CHARACTERS_OR_VALUES: usize = 1_000;

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
        (ParameterType::Text, true) => format!("({array})"),
        (kind, true) => format!("({array}::pg_catalog.{}[])", base(kind)),
        (kind, false) => format!("(({array})[1]::pg_catalog.{})", base(kind)),
    }
}

/// The type of one value in the database.
const fn base(kind: ParameterType) -> &'static str {
    match kind {
        ParameterType::Text | ParameterType::Box => "text",
        ParameterType::Integer => "int8",
        ParameterType::Number => "float8",
        ParameterType::Boolean => "bool",
    }
}

impl Check<'_> {
    /// The parameters of a tileset with the layers `layers`.
    pub(crate) fn parameters(
        &self,
        sections: &[ParameterSection],
        layers: &[LayerOptions],
        all_layers: &[String],
    ) -> Result<Vec<ParameterSettings>, ConfigError> {
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
        sections.iter().map(|section| self.parameter(section, layers, all_layers)).collect()
    }

    fn parameter(
        &self,
        section: &ParameterSection,
        layers: &[LayerOptions],
        all_layers: &[String],
    ) -> Result<ParameterSettings, ConfigError> {
        let name = &section.name;
        let wrong = |field: &str, what: String| {
            let field = if field.is_empty() { String::new() } else { format!(".{field}") };
            self.wrong("tileset.parameter", format!("[{name}]{field} {what}"))
        };
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase())
            || !name.chars().all(is_plain)
            || name.len() > MAX_NAME_BYTES
        {
            let what = format!(
                "is no name: write a letter from a to z, then such letters, digits and _, at most {MAX_NAME_BYTES} together"
            );
            return Err(wrong("", what));
        }
        let ValueType { of_each: kind, is_list } = section.kind;
        let is_text = kind == ParameterType::Text;
        let is_number = matches!(kind, ParameterType::Integer | ParameterType::Number);
        for (field, is_set, fits) in [
            ("case", section.case.is_some(), is_text),
            ("pattern", section.pattern.is_some(), is_text),
            ("max_length", section.max_length.is_some(), is_text),
            ("allowed", section.allowed.is_some(), is_text || is_number),
            ("min", section.min.is_some(), is_number),
            ("max", section.max.is_some(), is_number),
            ("max_values", section.max_values.is_some(), is_list),
        ] {
            if is_set && !fits {
                return Err(wrong(field, format!("has no meaning for the type {}: leave it out", kind.name())));
            }
        }
        let most = |field: &'static str, given: Option<NonZeroUsize>, default: usize| {
            let most = given.map_or(default, NonZeroUsize::get);
            if most > MAX_CHARACTERS_OR_VALUES {
                Err(wrong(field, format!("is {most}, and must not be more than {MAX_CHARACTERS_OR_VALUES}")))
            } else {
                Ok(most)
            }
        };
        let max_values = most("max_values", section.max_values, MAX_VALUES)?;
        let case = section.case.unwrap_or_default();
        let pattern = section.pattern.as_ref().map(|pattern| {
            let whole = RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(MAX_PATTERN_BYTES).build();
            whole.map_err(|error| wrong("pattern", format!("is no pattern ({error})")))
        });
        let bounds = ParameterBounds {
            case,
            allowed: section.allowed.iter().flatten().map(|value| in_case(value.text(), case)).collect(),
            pattern: pattern.transpose()?,
            max_length: most("max_length", section.max_length, MAX_LENGTH)?,
            min: section.min,
            max: section.max,
        };
        let conditions = section.conditions.iter().map(|(layer, sql)| {
            let place = format!("!{name}!");
            if !all_layers.contains(layer) {
                return Err(wrong("where", format!("names the layer \"{layer}\", which is not there")));
            }
            let of_function = |settings: &LayerOptions| {
                settings.name == *layer && matches!(settings.kind, crate::postgis::LayerKind::Function(_))
            };
            if layers.iter().any(of_function) {
                let what = format!(
                    "has a condition for the layer \"{layer}\", whose tiles a function gives: it gets the values in its last argument; leave the condition out"
                );
                return Err(wrong("where", what));
            }
            if !sql.contains(&place) {
                return Err(wrong("where", format!("does not contain {place}, which stands for the values, for the layer \"{layer}\"")));
            }
            Ok((layer.clone(), sql.replace(&place, &sql_of(name, kind, is_list))))
        });
        let conditions: BTreeMap<String, String> = conditions.collect::<Result<_, _>>()?;
        let parameter = Parameter {
            name: name.clone(),
            description: section.description.clone(),
            kind,
            most: is_list.then(|| NonZeroUsize::new(max_values)).flatten(),
            bounds,
        };
        Ok(ParameterSettings { parameter, conditions })
    }
}

fn in_case(text: String, case: LetterCase) -> String {
    match case {
        LetterCase::Keep => text,
        LetterCase::Lower => text.to_lowercase(),
        LetterCase::Upper => text.to_uppercase(),
    }
}
