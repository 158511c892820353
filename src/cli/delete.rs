//! `kdsync delete`.
//!
//! Decides: nothing. Never does: delete more than the one thing named.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Client, segment};
use super::output::{self, Output};
use super::{CliError, Server};

/// Arguments of `delete`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kdsync delete secret sample-secret\n  kdsync delete secret tls -m backend\n  kdsync delete global-secret license-key"
)]
pub(super) struct DeleteArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A secret of a mesh
    Secret {
        /// Its name
        name: String,
        /// Its mesh
        #[arg(short, long, default_value = "default")]
        mesh: String,
    },
    /// A secret that belongs to no mesh
    #[command(visible_alias = "globalsecret")]
    GlobalSecret {
        /// Its name
        name: String,
    },
}

/// Runs it.
pub(super) async fn run(server: &Server, args: DeleteArgs, output: &mut Output) -> Result<(), CliError> {
    let client = Client::new(server)?;
    let (path, what) = match &args.what {
        What::Secret { name, mesh } => {
            let path = format!("/meshes/{}/secrets/{}", segment(mesh), segment(name));
            (path, format!("secret/{name} in mesh {mesh}"))
        }
        What::GlobalSecret { name } => {
            (format!("/globalsecrets/{}", segment(name)), format!("global-secret/{name}"))
        }
    };
    let answer = match client.delete(&path).await {
        Ok(answer) => answer,
        Err(error) if error.is_not_found() => {
            return Err(CliError::Failed(format!("there is no {what}; nothing was deleted")));
        }
        Err(error) => return Err(error.into()),
    };
    output.line(&format!("{what} deleted"))?;
    let warnings = answer.get("warnings").and_then(Value::as_array);
    for warning in warnings.into_iter().flatten().filter_map(Value::as_str) {
        output::warning(warning);
    }
    Ok(())
}
