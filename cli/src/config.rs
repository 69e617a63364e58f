//! From arguments, file and environment to a configuration; `tickmesh config`.

use std::path::Path;

use tickmesh_cluster::config::{Config, Sources};

use crate::args::ConfigCommand;

/// The configuration or an argument cannot be used: exit status 64.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unusable(pub(crate) String);

/// A flag that stands for a key: its name, the key, and its value where it was given.
pub(crate) type Flag = (&'static str, &'static str, Option<String>);

/// Loads the configuration of a process.
pub(crate) fn load(
    defaults: &Config,
    file: Option<&Path>,
    flags: impl IntoIterator<Item = Flag>,
) -> anyhow::Result<Config> {
    let flags = flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?))).collect();
    // A variable that is not Unicode cannot be one of ours.
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let sources = Sources { file: file.map(Path::to_owned), env, flags };
    let config = Config::load(defaults, &sources)
        .map_err(|errors| Unusable(format!("the configuration cannot be used:\n{errors}")))?;
    tickmesh_telemetry::log::check(&config.log.level)
        .map_err(|error| Unusable(format!("log.level = \"{}\": {error}", config.log.level)))?;
    Ok(config)
}

/// `tickmesh config`
pub(crate) fn run(what: &ConfigCommand) -> anyhow::Result<()> {
    match what {
        ConfigCommand::Default => tickmesh_bench::out::text(Config::default_toml()),
        ConfigCommand::Check { file } => {
            let config = load(&Config::node_defaults(), Some(file), [])?;
            tickmesh_store::check(&config).map_err(|error| Unusable(error.to_string()))?;
            for warning in config.warnings() {
                eprintln!("warning: {warning}");
            }
            tickmesh_bench::out::line(format_args!("{}: ok", file.display()));
        }
        ConfigCommand::Effective { config } => {
            tickmesh_bench::out::text(
                load(&Config::node_defaults(), config.as_deref(), [])?.effective_toml(),
            );
        }
    }
    Ok(())
}
