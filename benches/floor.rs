//! The database floor: `cargo bench --bench floor -- --database-url URL --zoom 0-14`. Takes the flags of `seed`; prints one line of JSON.
//! `scripts/bench` runs it side by side with the program.

use std::error::Error;
use std::io::Write as _;

use clap::Parser;
use oar_tiles::cli::SettingFlags;
use oar_tiles::command::floor::floor;
use oar_tiles::config::{JobSettings, gather};
use oar_tiles::postgis::Parts;
use oar_tiles::report::{Style, report};
use oar_tiles::run::Job;
use oar_tiles::stop::Stop;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    given: SettingFlags,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let given = Arguments::parse().given;
    if given.database_url.is_none() {
        writeln!(std::io::stderr(), "the floor needs a database: see scripts/bench")?;
        return Ok(());
    }
    let values = gather(given.config.as_deref(), None, std::env::vars(), given.flags())?;
    let settings =
        JobSettings::resolve(&values, &Parts::from_environment(|name| std::env::var(name).ok()), &given.layer)?;
    let measured = tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let job = Job::new(settings, false, &report(Style::Warnings), &Stop::new())?;
        floor(&job).await
    })?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&measured)?)?;
    Ok(())
}
