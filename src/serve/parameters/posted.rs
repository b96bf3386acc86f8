//! Filters that clients have posted, because they are too long for an address. The id of a filter is the hash of its
//! values in canonical form: every server gives the same, and one that does not have it says so.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use super::given::{BadQuery, ReadValues, decoded};
use super::{GivenParameters, ParameterType, ParametersKey, TilesetParameters, UndeclaredNames};
use crate::manifest::Publication;
use crate::serve::http::address::ClientKey;

/// The name in a query whose value is the id of a posted filter.
pub(crate) const POSTED_NAME: &str = "filter";

/// The most positions of a polygon in a posted filter. The database tries each row of its box with each of them in turn
/// in the worst case.
const MAX_POSITIONS: usize = 10_000;

/// The most filters of all tilesets that a server keeps.
const MAX_FILTERS: usize = 10_000;

/// The most memory of their values, in bytes.
const MAX_BYTES: usize = 64 << 20;

/// How long a filter is kept that nobody uses.
const MAX_AGE: Duration = Duration::from_secs(24 * 3_600);

/// The name in a query whose value is the publication that a tile must show at least.
pub(crate) const PUBLICATION_NAME: &str = "g";

/// How many digits of a publication's id its name has.
const ID_DIGITS: usize = 8;

/// What an address calls a publication: its number, and the beginning of its id, because another target begins to count
/// anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicationName {
    pub(crate) number: u64,
    id: String,
}

impl PublicationName {
    /// `None` if the manifest of another program has an id that an address cannot have.
    pub(crate) fn of(publication: &Publication) -> Option<PublicationName> {
        let id = publication.id.get(..ID_DIGITS).filter(|id| id.bytes().all(is_hex_digit))?;
        Some(PublicationName { number: publication.number, id: id.to_owned() })
    }

    fn read(text: &str) -> Option<PublicationName> {
        let (number, id) = text.split_once('-')?;
        let is_id = id.len() == ID_DIGITS && id.bytes().all(is_hex_digit);
        let number = Some(number).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
        is_id.then(|| Some(PublicationName { number: number.parse().ok()?, id: id.to_owned() }))?
    }
}

impl fmt::Display for PublicationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.id)
    }
}

fn is_hex_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// A query without the names that stand for something else than values, and what these say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PostedQuery<'a> {
    pub(crate) rest: Option<Cow<'a, str>>,
    pub(crate) id: Option<ParametersKey>,
    pub(crate) publication: Option<PublicationName>,
}

/// Takes the value of a name out of a query.
/// Fails if the name stands there twice, with what to do.
fn taken_out<'a>(
    query: Option<Cow<'a, str>>,
    wanted: &str,
    instead: &str,
) -> Result<(Option<Cow<'a, str>>, Option<String>), BadQuery> {
    let is_it = |pair: &&str| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
        name == wanted || name.contains('%') && decoded(name).is_some_and(|name| name == wanted)
    };
    let pairs = query.as_deref().unwrap_or_default().split('&');
    let mut values = pairs.clone().filter(is_it).map(|pair| pair.split_once('=').map_or("", |(_, value)| value));
    let Some(value) = values.next().map(str::to_owned) else { return Ok((query, None)) };
    if values.next().is_some() {
        return Err(BadQuery(format!("{wanted} stands there twice: {instead}")));
    }
    let rest = pairs.filter(|pair| !is_it(pair)).collect::<Vec<_>>().join("&");
    Ok(((!rest.is_empty()).then_some(Cow::Owned(rest)), Some(value).filter(|value| !value.is_empty())))
}

impl<'a> PostedQuery<'a> {
    /// Takes the id of a posted filter and the name of a publication out of a query.
    /// Fails if one is none, or stands there twice.
    pub(crate) fn of(query: Option<Cow<'a, str>>) -> Result<PostedQuery<'a>, BadQuery> {
        let (rest, id) = taken_out(query, POSTED_NAME, "post all values together")?;
        let (rest, publication) = taken_out(rest, PUBLICATION_NAME, "name one publication")?;
        let id = id.map(|id| {
            let read = Some(&id).filter(|id| id.len() == 32 && id.bytes().all(is_hex_digit));
            let read = read.and_then(|id| u128::from_str_radix(id, 16).ok()).map(ParametersKey);
            let wrong = "filter is no id: post the values to filters, which answers with it";
            read.ok_or_else(|| BadQuery(wrong.to_owned()))
        });
        let publication = publication.map(|name| {
            let wrong = "g names no publication: tiles.json says which one is shown";
            PublicationName::read(&name).ok_or_else(|| BadQuery(wrong.to_owned()))
        });
        Ok(PostedQuery { rest, id: id.transpose()?, publication: publication.transpose()? })
    }
}

impl ParametersKey {
    /// The id under which the values can be asked for once they are posted.
    pub(crate) fn id(self) -> String {
        format!("{:032x}", self.0)
    }
}

/// The values of a posted JSON object: by name a value, a list of values, or for a polygon a GeoJSON geometry.
/// Fails with what is wrong with it.
pub(crate) fn of_json(declared: &TilesetParameters, body: &[u8]) -> Result<Option<GivenParameters>, BadQuery> {
    let json: Value =
        serde_json::from_slice(body).map_err(|error| BadQuery(format!("the body is no JSON ({error})")))?;
    let Value::Object(members) = json else {
        return Err(BadQuery("the body has to be an object with the parameters as members".to_owned()));
    };
    let mut read = ReadValues::new(declared, UndeclaredNames::Refuse, MAX_POSITIONS);
    for (name, value) in members {
        let Some(index) = read.named(Some(&name))? else { continue };
        let is_box = declared.0.get(index).is_some_and(|parameter| parameter.kind == ParameterType::Box);
        match value {
            Value::Array(sides) if is_box => {
                let sides = sides.iter().map(|side| text_of(side).unwrap_or_default()).collect::<Vec<_>>();
                read.add(index, Some(&sides.join(",")))?;
            }
            Value::Array(several) => several.iter().try_for_each(|one| add(&mut read, &name, index, one))?,
            one => add(&mut read, &name, index, &one)?,
        }
    }
    Ok(read.all())
}

fn add(read: &mut ReadValues<'_>, name: &str, index: usize, value: &Value) -> Result<(), BadQuery> {
    let wrong = || BadQuery(format!("parameter {name}: a value is a list inside a list"));
    read.add(index, Some(&text_of(value).ok_or_else(wrong)?))
}

/// A value as an address would have it.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) => None,
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Some(value.to_string()),
    }
}

/// The values of a posted form.
/// Fails with what is wrong with it.
pub(crate) fn of_form(declared: &TilesetParameters, body: &[u8]) -> Result<Option<GivenParameters>, BadQuery> {
    let text = std::str::from_utf8(body).map_err(|_other| BadQuery("the body is no UTF-8".to_owned()))?;
    let mut read = ReadValues::new(declared, UndeclaredNames::Refuse, MAX_POSITIONS);
    text.trim_end().split('&').filter(|pair| !pair.is_empty()).try_for_each(|pair| read.add_pair(pair))?;
    Ok(read.all())
}

/// A filter, and who posted it.
struct Posted {
    given: Arc<GivenParameters>,
    client: ClientKey,
    bytes: usize,
    /// The number of its last use.
    used: u64,
    at: Instant,
}

/// A filter's tileset and id.
type FilterName = (Arc<str>, ParametersKey);

#[derive(Default)]
struct PostedTable {
    filters: HashMap<FilterName, Posted>,
    uses: u64,
}

/// The filters that a server keeps. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct PostedFilters(Arc<Mutex<PostedTable>>);

impl PostedFilters {
    /// The values of a filter; `None` if they are not here.
    pub(crate) fn get(&self, tileset: &Arc<str>, id: ParametersKey) -> Option<Arc<GivenParameters>> {
        let mut table = self.0.lock();
        table.uses += 1;
        let uses = table.uses;
        let posted = table.filters.get_mut(&(Arc::clone(tileset), id))?;
        (posted.used, posted.at) = (uses, Instant::now());
        Some(Arc::clone(&posted.given))
    }

    /// Keeps a filter that a client has posted. Those of the client with the most make room, the ones first that were
    /// not used for longest.
    pub(crate) fn keep(&self, tileset: &Arc<str>, given: GivenParameters, client: ClientKey) {
        self.keep_within(tileset, given, client, [MAX_FILTERS, MAX_BYTES]);
    }

    fn keep_within(
        &self,
        tileset: &Arc<str>,
        given: GivenParameters,
        client: ClientKey,
        [most, most_bytes]: [usize; 2],
    ) {
        let mut table = self.0.lock();
        table.uses += 1;
        let (used, at, name) = (table.uses, Instant::now(), (Arc::clone(tileset), given.key));
        if let Some(known) = table.filters.get_mut(&name) {
            (known.used, known.at) = (used, at);
            return;
        }
        table.filters.retain(|_, posted| posted.at.elapsed() < MAX_AGE);
        let bytes = given.bytes() + size_of::<(FilterName, Posted)>();
        while table.filters.len() >= most || table.bytes() + bytes > most_bytes {
            let Some(oldest) = table.displaced_by(client) else { break };
            table.filters.remove(&oldest);
        }
        table.filters.insert(name, Posted { given: Arc::new(given), client, bytes, used, at });
    }
}

impl PostedTable {
    fn bytes(&self) -> usize {
        self.filters.values().map(|posted| posted.bytes).sum()
    }

    /// The filter that makes room for a further one of a client.
    fn displaced_by(&self, client: ClientKey) -> Option<FilterName> {
        let mut bytes: HashMap<ClientKey, usize> = HashMap::new();
        for posted in self.filters.values() {
            *bytes.entry(posted.client).or_default() += posted.bytes;
        }
        let most = client.displaces(bytes.iter().map(|(client, bytes)| (*client, *bytes)));
        let of = most.unwrap_or(client);
        let own = self.filters.iter().filter(|(_, posted)| posted.client == of);
        own.min_by_key(|(_, posted)| posted.used).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::parameters::{GivenParameter, ParameterValue};

    fn given(text: &str) -> GivenParameters {
        let values = vec![ParameterValue { texts: vec![text.to_owned()] }];
        let one = GivenParameter { name: "a".to_owned(), kind: ParameterType::Text, is_list: true, values };
        GivenParameters { key: super::super::given::key(std::slice::from_ref(&one)), given: vec![one] }
    }

    #[test]
    fn the_id_stands_once_in_a_query_and_is_a_hash() {
        let id = "0123456789abcdef0123456789abcdef";
        let of = |query: &'static str| PostedQuery::of(Some(query.into())).map_err(|error| error.to_string());
        let read = of("v=1&filter=0123456789abcdef0123456789abcdef&x").unwrap();
        assert_eq!((read.rest.as_deref(), read.id.unwrap().id().as_str()), (Some("v=1&x"), id));
        assert_eq!(of("%66ilter=0123456789abcdef0123456789abcdef").unwrap().id.unwrap().id(), id);
        assert_eq!(of("a=filter").unwrap(), PostedQuery { rest: Some("a=filter".into()), ..PostedQuery::default() });
        assert_eq!(of("filter=").unwrap(), PostedQuery::default());
        for query in ["filter=x", "filter=0123456789ABCDEF0123456789ABCDEF", "filter=+123456789abcdef0123456789abcdef"]
        {
            assert!(of(query).unwrap_err().starts_with("filter is no id"), "{query}");
        }
        assert!(of("filter=a&filter=b").unwrap_err().contains("twice"));
        let both = of("g=42-0123abcd&filter=0123456789abcdef0123456789abcdef&gg=1").unwrap();
        assert_eq!((both.rest.as_deref(), both.id.is_some()), (Some("gg=1"), true));
        assert_eq!(both.publication.map(|name| (name.number, name.to_string())), Some((42, "42-0123abcd".to_owned())));
        assert_eq!(of("g=&a=1").unwrap().publication, None);
        for query in [
            "g=x",
            "g=42",
            "g=-0123abcd",
            "g=+1-0123abcd",
            "g=1-0123abc",
            "g=1-0123ABCD",
            "g=99999999999999999999-0123abcd",
        ] {
            assert!(of(query).unwrap_err().starts_with("g names no publication"), "{query}");
        }
        assert!(of("g=1&g=2").unwrap_err().contains("g stands there twice"));
    }

    #[test]
    fn a_client_that_posts_without_end_displaces_its_own() {
        let (filters, tileset) = (PostedFilters::default(), Arc::from("t"));
        let client = |number: u8| ClientKey::of(Some([192, 0, 2, number].into()));
        let keep = |text: &str, of: u8, bytes| filters.keep_within(&tileset, given(text), client(of), [4, bytes]);
        let has = |text: &str| filters.get(&tileset, given(text).key).is_some();
        keep("first", 1, 1 << 20);
        for number in 0..20 {
            keep(&number.to_string(), 2, 1 << 20);
        }
        assert!(has("first") && has("17") && has("18") && has("19") && !has("16"));
        assert!(!PostedFilters::default().0.lock().filters.contains_key(&(Arc::clone(&tileset), given("first").key)));
        assert!(filters.get(&Arc::from("other"), given("first").key).is_none());
        // By memory, too: the one that was used longest ago goes.
        let long = "x".repeat(10_000);
        keep(&long, 2, 12_000);
        assert!(has(&long) && !has("17") && filters.0.lock().bytes() <= 12_000);
    }
}
