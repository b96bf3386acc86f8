//! The sections `[[purge]]`, checked.

use std::time::Duration;

use super::error::ConfigError;
use super::settings::Check;
use crate::cdn::{
    CdnUrl, CdnUrlError, CloudFrontOptions, CloudflareOptions, CommandOptions, FastlyOptions, NginxOptions,
    ProviderOptions, PurgeBudget, PurgeOptions, PurgeProvider, PurgeSection, SecretSource, VarnishOptions,
};

/// The default delay after which items that cost nothing are purged again: an edge may have fetched the old tile again
/// from a shield that was purged after the edge.
const REBOUND: Duration = Duration::from_secs(10);

/// The default of the least time between two purges that cost money.
const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// The default of the most lines in a list for a program.
const MAX_LISTED: usize = 10_000;

impl Check<'_> {
    pub(crate) fn purges(&self, given: &[PurgeSection]) -> Result<Vec<PurgeOptions>, ConfigError> {
        let mut purges = given.iter().map(|section| self.purge(section)).collect::<Result<Vec<_>, _>>()?;
        let variables = given.iter().map(|section| (section.provider, section.token_variable.clone()));
        let secrets: Vec<String> = variables
            .filter(|(provider, _)| *provider != PurgeProvider::Command)
            .filter_map(|(_, variable)| variable)
            .collect();
        for purge in &mut purges {
            if let ProviderOptions::Command(options) = &mut purge.provider {
                options.others_variables.clone_from(&secrets);
            }
        }
        Ok(purges)
    }

    fn purge(&self, given: &PurgeSection) -> Result<PurgeOptions, ConfigError> {
        let url: CdnUrl = given
            .url
            .parse()
            .map_err(|error: CdnUrlError| self.wrong("purge.url", format!("{:?} {error}", given.url)))?;
        self.purge_keys_fit(given)?;
        let costs = given.provider == PurgeProvider::CloudFront;
        let rebound = given.rebound.map_or(if costs { Duration::ZERO } else { REBOUND }, Duration::from);
        Ok(PurgeOptions {
            section: given.clone(),
            provider: self.purge_provider(given)?,
            url,
            budget: PurgeBudget {
                items_per_month: given.budget_per_month,
                min_interval: given
                    .min_interval
                    .map_or(if costs { MIN_INTERVAL } else { Duration::ZERO }, Duration::from),
            },
            rebound: (rebound > Duration::ZERO).then_some(rebound),
        })
    }

    fn purge_provider(&self, given: &PurgeSection) -> Result<ProviderOptions, ConfigError> {
        let endpoint = given.endpoint.as_deref().map(|url| self.server("purge.endpoint", url)).transpose()?;
        let soft = given.soft.unwrap_or(true);
        Ok(match given.provider {
            PurgeProvider::CloudFront => ProviderOptions::CloudFront(CloudFrontOptions {
                distribution: self.name_in_path("purge.distribution", given.distribution.as_deref())?,
                profile: given.profile.clone(),
                endpoint,
            }),
            PurgeProvider::Fastly => ProviderOptions::Fastly(FastlyOptions {
                service: self.name_in_path("purge.service", given.service.as_deref())?,
                token: self.token(given, "FASTLY_API_TOKEN")?,
                soft,
                endpoint,
            }),
            PurgeProvider::Cloudflare => ProviderOptions::Cloudflare(CloudflareOptions {
                zone: self.name_in_path("purge.zone", given.zone.as_deref())?,
                token: self.token(given, "CLOUDFLARE_API_TOKEN")?,
                plan: given.plan.unwrap_or_default(),
                origins: given.origins.clone().unwrap_or_default(),
                endpoint,
            }),
            PurgeProvider::Varnish => ProviderOptions::Varnish(VarnishOptions {
                caches: self.caches(given)?,
                token: self.token_of_cache(given)?,
                soft,
            }),
            PurgeProvider::Nginx => ProviderOptions::Nginx(NginxOptions {
                caches: self.caches(given)?,
                token: self.token_of_cache(given)?,
                wildcards: given.wildcards.unwrap_or(false),
            }),
            PurgeProvider::Command => {
                let program = self.required("purge.program", given.program.clone())?;
                if program.first().is_none_or(String::is_empty) {
                    return Err(
                        self.wrong("purge.program", "names no program: write [\"/path/to/program\"]".to_owned())
                    );
                }
                let max_items = self.within("purge.max_items", given.max_items.unwrap_or(MAX_LISTED), 1..=1_000_000)?;
                ProviderOptions::Command(CommandOptions {
                    program,
                    max_items,
                    token_variable: given.token_variable.clone(),
                    others_variables: Vec::new(),
                })
            }
        })
    }

    /// Refuses keys of another provider, because the user expects them to have an effect.
    fn purge_keys_fit(&self, given: &PurgeSection) -> Result<(), ConfigError> {
        use PurgeProvider::{CloudFront, Cloudflare, Command, Fastly, Nginx, Varnish};
        let clouds: &[PurgeProvider] = &[CloudFront, Fastly, Cloudflare];
        let with_token: &[PurgeProvider] = &[Fastly, Cloudflare, Varnish, Nginx];
        let keys: [(&str, bool, &[PurgeProvider]); 13] = [
            ("distribution", given.distribution.is_some(), &[CloudFront]),
            ("profile", given.profile.is_some(), &[CloudFront]),
            ("service", given.service.is_some(), &[Fastly]),
            ("zone", given.zone.is_some(), &[Cloudflare]),
            ("plan", given.plan.is_some(), &[Cloudflare]),
            ("origins", given.origins.is_some(), &[Cloudflare]),
            ("caches", given.caches.is_some(), &[Varnish, Nginx]),
            ("wildcards", given.wildcards.is_some(), &[Nginx]),
            ("program", given.program.is_some(), &[Command]),
            ("max_items", given.max_items.is_some(), &[Command]),
            ("token_file", given.token_file.is_some(), with_token),
            ("token_variable", given.token_variable.is_some(), &[Fastly, Cloudflare, Varnish, Nginx, Command]),
            ("endpoint", given.endpoint.is_some(), clouds),
        ];
        let odd = keys.into_iter().find(|(_, is_given, fits)| *is_given && !fits.contains(&given.provider));
        odd.map_or(Ok(()), |(key, _, fits)| {
            let fits: Vec<String> = fits.iter().map(|name| format!("{name:?}").to_lowercase()).collect();
            let what = format!("is of provider = \"{}\": leave it out", fits.join("\" or \""));
            Err(self.wrong(&format!("purge.{key}"), what))
        })
    }

    /// The token of a cache that the user runs, if there is one.
    fn token_of_cache(&self, given: &PurgeSection) -> Result<Option<SecretSource>, ConfigError> {
        let is_given = given.token_file.is_some() || given.token_variable.is_some();
        is_given.then(|| self.token(given, "")).transpose()
    }

    fn token(&self, given: &PurgeSection, usual: &str) -> Result<SecretSource, ConfigError> {
        match (&given.token_file, &given.token_variable) {
            (Some(_), Some(_)) => {
                Err(self.wrong("purge.token_file", "and token_variable are given: write one of them".to_owned()))
            }
            (Some(path), None) => Ok(SecretSource::File(path.clone())),
            (None, variable) => Ok(SecretSource::Variable(variable.clone().unwrap_or_else(|| usual.to_owned()))),
        }
    }

    /// The value of a key that the provider needs.
    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.wrong(key, "has no value: write one".to_owned()))
    }

    /// A name that becomes a part of a URL's path.
    fn name_in_path(&self, key: &str, given: Option<&str>) -> Result<String, ConfigError> {
        let name = self.required(key, given)?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            return Err(self.wrong(key, format!("{name:?} is no id: write letters and digits")));
        }
        Ok(name.to_owned())
    }

    fn caches(&self, given: &PurgeSection) -> Result<Vec<String>, ConfigError> {
        let caches = self.required("purge.caches", given.caches.as_deref())?;
        if caches.is_empty() {
            return Err(self.wrong("purge.caches", "names no server: write [\"http://127.0.0.1:6081\"]".to_owned()));
        }
        caches.iter().map(|url| self.server("purge.caches", url)).collect()
    }

    /// The address of a server to which requests are sent.
    fn server(&self, key: &str, url: &str) -> Result<String, ConfigError> {
        let parsed: Result<CdnUrl, CdnUrlError> = url.parse();
        match parsed {
            Ok(_) => Ok(url.trim_end_matches('/').to_owned()),
            // A URL with a user contains a password, so the message does not repeat it.
            Err(CdnUrlError::User) => Err(self.wrong(key, format!("{}", CdnUrlError::User))),
            Err(error) => Err(self.wrong(key, format!("{url:?} {error}"))),
        }
    }
}
