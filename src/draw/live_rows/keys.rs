//! Keys of rows as the parameter of a statement.

use tokio_postgres::types::Type;

use crate::mvt::FeatureKeyValue;
use crate::postgis::session::Param;
use crate::postgis::sql::KeyArray;

/// Keys as the array of a statement. All are numbers, or all are texts.
pub(crate) struct KeyArrays<'k> {
    numbers: Vec<i64>,
    texts: Vec<&'k str>,
}

impl<'k> KeyArrays<'k> {
    pub(crate) fn of(keys: &[FeatureKeyValue<'k>]) -> KeyArrays<'k> {
        let (mut numbers, mut texts) = (Vec::new(), Vec::new());
        for key in keys {
            match key {
                FeatureKeyValue::Number(number) => numbers.extend(i64::try_from(*number)),
                FeatureKeyValue::Text(text) => texts.extend(std::str::from_utf8(text)),
            }
        }
        KeyArrays { numbers, texts }
    }

    pub(crate) fn kind(&self) -> KeyArray {
        if self.texts.is_empty() { KeyArray::Numbers } else { KeyArray::Texts }
    }

    pub(crate) fn param(&self) -> Param<'_> {
        match self.kind() {
            KeyArray::Numbers => (&self.numbers, Type::INT8_ARRAY),
            KeyArray::Texts => (&self.texts, Type::TEXT_ARRAY),
        }
    }
}
