//! The connection to Redis. A build without the feature `redis` has none.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backoff::Backoff;

/// The address of a Redis server, with its password; `Debug` and `Display` hide user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

/// Why a text is not the address of a Redis server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    #[error(
        "the address of Redis must have the form redis://USER:PASSWORD@HOST:PORT/DATABASE, the same with rediss:// for TLS, or unix:///PATH"
    )]
    Form,
    #[error("this program was built without Redis: build it with the feature \"redis\"")]
    NotBuilt,
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<RedisUrl, RedisUrlError> {
        let text = text.trim();
        let is_known =
            ["redis://", "rediss://", "unix://", "redis+unix://"].iter().any(|scheme| text.starts_with(scheme));
        // "#insecure" would accept any certificate.
        let is_known = is_known && !text.contains('#');
        let url = is_known.then(|| RedisUrl(text.to_owned())).ok_or(RedisUrlError::Form)?;
        imp::check(&url.0).map(|()| url)
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("redis", ""));
        // Queries of unix:// may hold a password.
        let rest = rest.split('?').next().unwrap_or_default();
        match rest.rsplit_once('@') {
            Some((_secret, host)) => write!(f, "{scheme}://(hidden)@{host}"),
            None => write!(f, "{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why an exchange with Redis failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("it takes too long")]
    Slow,
    #[error("{0}")]
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "there is no connection"))]
    Lost(String),
    /// The server answered with an error, such as that its memory is full.
    #[error("it refuses: {0}")]
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "there is no connection"))]
    Refused(String),
}

/// A connection that is opened at the first exchange, and again whenever it breaks.
pub(crate) struct RedisLink(imp::Connection);

impl RedisLink {
    /// A connection to an address. Must be called on a runtime.
    /// Fails if the program was built without Redis, or the address is not that of a Redis server.
    pub(crate) fn new(url: &RedisUrl) -> Result<RedisLink, RedisUrlError> {
        imp::open(&url.0).map(RedisLink)
    }

    /// The first `limit` bytes of a key's value; empty if there is none. Others may have stored a value of any length.
    pub(crate) async fn get(&self, key: &str, limit: usize) -> Result<Vec<u8>, LinkError> {
        imp::get(&self.0, key, limit).await
    }

    /// Removes a key whose value still begins with these bytes.
    pub(crate) async fn remove(&self, key: &str, begins: &[u8]) -> Result<(), LinkError> {
        imp::remove(&self.0, key, begins).await
    }

    /// Sets the value of a key for the time `life`, unless the key has a value that shows a later database state.
    pub(crate) async fn put(&self, key: &str, value: &[u8], life: Duration) -> Result<(), LinkError> {
        imp::put(&self.0, key, value, life).await
    }

    pub(crate) async fn publish(&self, channel: &str, message: &str) -> Result<(), LinkError> {
        imp::publish(&self.0, channel, message).await
    }

    /// Listens to a channel through a separate connection: calls `heard` with `None` once it listens, then with each
    /// message. Ends when the connection ends.
    pub(crate) async fn listen(&self, channel: &str, heard: impl Fn(Option<String>)) -> LinkError {
        match imp::listen(&self.0, channel, heard).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

#[cfg(feature = "redis")]
mod imp {
    use std::convert::Infallible;
    use std::time::Duration;

    use futures_util::StreamExt as _;
    use redis::aio::{ConnectionManager, ConnectionManagerConfig};
    use redis::{Client, RedisError};

    use super::{LinkError, RedisUrlError};

    /// The connection for exchanges, and the client that opens further connections.
    pub(crate) struct Connection {
        manager: ConnectionManager,
        client: Client,
    }

    /// The longest that opening a connection may take. The exchange that waits for it has its own budget.
    const CONNECT_LIMIT: Duration = Duration::from_secs(1);

    /// A listening connection that was silent for this long is checked by a ping.
    const SILENCE: Duration = Duration::from_secs(30);

    /// Writes a value unless the present value shows a later database state: both have the state's xmax at the same
    /// place, in digits that compare as text.
    const PUT: &str = "
        local old = redis.call('GETRANGE', KEYS[1], 4, 19)
        if #old < 16 or old <= string.sub(ARGV[1], 5, 20) or redis.call('GETRANGE', KEYS[1], 0, 3) ~= 'oar3' then
            redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
        end
        return 1";

    /// Removes a value that still begins as it did when it was read.
    const REMOVE: &str = "
        if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
            redis.call('UNLINK', KEYS[1])
        end
        return 1";

    /// Checks that an address can be used.
    pub(crate) fn check(url: &str) -> Result<(), RedisUrlError> {
        Client::open(url).map(drop).map_err(|_unnamed| RedisUrlError::Form)
    }

    pub(crate) fn open(url: &str) -> Result<Connection, RedisUrlError> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(CONNECT_LIMIT))
            .set_number_of_retries(0);
        // TLS needs a provider. An error says that another thread has installed the same one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::open(url).map_err(|_unnamed| RedisUrlError::Form)?;
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config);
        Ok(Connection { manager: manager.map_err(|_unnamed| RedisUrlError::Form)?, client })
    }

    pub(crate) async fn get(link: &Connection, key: &str, limit: usize) -> Result<Vec<u8>, LinkError> {
        let mut command = redis::cmd("GETRANGE");
        command.arg(key).arg(0).arg(limit.saturating_sub(1));
        command.query_async(&mut link.manager.clone()).await.map_err(link_error)
    }

    /// Runs a command whose answer is a number that nobody needs.
    async fn done(link: &Connection, command: &redis::Cmd) -> Result<(), LinkError> {
        let answer: Result<i64, RedisError> = command.query_async(&mut link.manager.clone()).await;
        answer.map(drop).map_err(link_error)
    }

    pub(crate) async fn remove(link: &Connection, key: &str, begins: &[u8]) -> Result<(), LinkError> {
        let mut script = redis::cmd("EVAL");
        script.arg(REMOVE).arg(1).arg(key).arg(begins);
        done(link, &script).await
    }

    pub(crate) async fn publish(link: &Connection, channel: &str, message: &str) -> Result<(), LinkError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg(message);
        done(link, &command).await
    }

    pub(crate) async fn listen(
        link: &Connection,
        channel: &str,
        heard: impl Fn(Option<String>),
    ) -> Result<Infallible, LinkError> {
        let opening = async {
            let mut listening = link.client.get_async_pubsub().await?;
            listening.subscribe(channel).await?;
            Ok(listening)
        };
        let opened = tokio::time::timeout(CONNECT_LIMIT, opening).await.map_err(|_elapsed| LinkError::Slow)?;
        let (mut sink, mut messages) = opened.map_err(link_error)?.split();
        heard(None);
        loop {
            match tokio::time::timeout(SILENCE, messages.next()).await {
                Ok(Some(message)) => heard(Some(message.get_payload().unwrap_or_default())),
                Ok(None) => return Err(LinkError::Lost("the connection that listens has ended".to_owned())),
                Err(_silent) => {
                    let answered = tokio::time::timeout(CONNECT_LIMIT, sink.ping::<String>()).await;
                    answered.map_err(|_elapsed| LinkError::Slow)?.map_err(link_error)?;
                }
            }
        }
    }

    pub(crate) async fn put(link: &Connection, key: &str, value: &[u8], life: Duration) -> Result<(), LinkError> {
        let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut script = redis::cmd("EVAL");
        script.arg(PUT).arg(1).arg(key).arg(value).arg(millis);
        done(link, &script).await
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
    fn link_error(error: RedisError) -> LinkError {
        // The text of an error of the connection may name the address, never its password.
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_connection_refusal() {
            return LinkError::Lost(error.to_string());
        }
        LinkError::Refused(error.code().map_or_else(|| "it sends another kind of value".to_owned(), str::to_owned))
    }
}

#[cfg(not(feature = "redis"))]
#[expect(clippy::unused_async, reason = "as with the feature")]
mod imp {
    use std::time::Duration;

    use super::{LinkError, RedisUrlError};

    pub(crate) use std::convert::Infallible as Connection;

    pub(crate) const fn check(_url: &str) -> Result<(), RedisUrlError> {
        Err(RedisUrlError::NotBuilt)
    }

    pub(crate) const fn open(_url: &str) -> Result<Connection, RedisUrlError> {
        Err(RedisUrlError::NotBuilt)
    }

    pub(crate) async fn get(link: &Connection, _key: &str, _limit: usize) -> Result<Vec<u8>, LinkError> {
        match *link {}
    }

    pub(crate) async fn remove(link: &Connection, _: &str, _: &[u8]) -> Result<(), LinkError> {
        match *link {}
    }

    pub(crate) async fn put(link: &Connection, _: &str, _: &[u8], _: Duration) -> Result<(), LinkError> {
        match *link {}
    }

    pub(crate) async fn publish(link: &Connection, _: &str, _: &str) -> Result<(), LinkError> {
        match *link {}
    }

    pub(crate) async fn listen(
        link: &Connection,
        _: &str,
        _: impl Fn(Option<String>),
    ) -> Result<std::convert::Infallible, LinkError> {
        match *link {}
    }
}

// A circuit breaker: after some failures in a row a server is not asked for a pause, which gets longer each time; then
// one try shows whether it is back.

/// The failures in a row after which the server is not asked for a while.
const MAX_FAILURES: u32 = 3;

const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

#[derive(Debug)]
struct BreakerState {
    /// Failures since the last success.
    failures: u32,
    /// The moment before which the server may not be asked, and the pause that ends then.
    open: Option<(Instant, Duration)>,
    pauses: Backoff,
}

impl BreakerState {
    const CLOSED: BreakerState = BreakerState { failures: 0, open: None, pauses: PAUSES };
}

#[derive(Debug)]
pub(crate) struct CircuitBreaker(Mutex<BreakerState>);

impl CircuitBreaker {
    pub(crate) const fn new() -> CircuitBreaker {
        CircuitBreaker(Mutex::new(BreakerState::CLOSED))
    }

    /// True if the server may be asked. After a pause it is true once, until that try has ended or another pause has
    /// passed.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        match state.open {
            None => true,
            Some((until, _)) if now < until => false,
            Some((_, pause)) => {
                state.open = Some((now + pause, pause));
                true
            }
        }
    }

    /// Notes that the server has answered.
    pub(crate) fn succeeded(&self) {
        *self.0.lock() = BreakerState::CLOSED;
    }

    /// Notes that the server has not answered.
    pub(crate) fn failed(&self, now: Instant) {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= MAX_FAILURES {
            let pause = state.pauses.next_pause();
            state.open = Some((now + pause, pause));
        }
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;

    #[test]
    fn no_password_of_an_address_is_shown() {
        for (url, shown) in [
            ("redis://:hunter2@cache:6379/1", "redis://(hidden)@cache:6379/1"),
            ("redis://u:hun%40ter2@cache", "redis://(hidden)@cache"),
            ("redis://cache:6379", "redis://cache:6379"),
            ("rediss://:hunter2@cache:6379", "rediss://(hidden)@cache:6379"),
            ("unix:///run/redis.sock?pass=hunter2", "unix:///run/redis.sock"),
        ] {
            let parsed: RedisUrl = url.parse().unwrap();
            assert_eq!((parsed.to_string().as_str(), format!("{parsed:?}").as_str()), (shown, shown));
        }
        for url in ["", "cache:6379", "https://cache", "rediss://cache/#insecure"] {
            assert_eq!(url.parse::<RedisUrl>(), Err(RedisUrlError::Form), "{url}");
        }
    }
}

#[cfg(test)]
mod breaker_tests {
    use super::*;

    #[test]
    fn a_server_that_fails_is_left_alone_and_tried_once_after_each_pause() {
        let (breaker, begun) = (CircuitBreaker::new(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        for _ in 0..2 {
            breaker.failed(begun);
            assert!(breaker.may_try(begun));
        }
        breaker.failed(begun);
        assert!(!breaker.may_try(begun) && !breaker.may_try(at(499)));
        assert!(breaker.may_try(at(500)) && !breaker.may_try(at(501)), "one try after the pause");
        breaker.failed(at(510));
        assert!(!breaker.may_try(at(1_509)) && breaker.may_try(at(1_510)), "the second pause is twice as long");
        for _ in 0..20 {
            breaker.failed(at(2_000));
        }
        assert!(breaker.may_try(at(12_000)), "no pause is longer than ten seconds");
        breaker.succeeded();
        assert!(breaker.may_try(at(12_001)) && breaker.may_try(at(12_002)));
        breaker.failed(at(12_003));
        assert!(breaker.may_try(at(12_004)), "failures are counted anew");
    }
}
