//! `kdsync get`.
//!
//! Decides: what is asked and how it is shown. Never does: show a value in a table.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::output::{Format, Output, age, text};
use super::{CliError, Server};

const EXAMPLES: &str = "\
Examples:
  kdsync get secrets                     of mesh default: names and ages
  kdsync get secrets -m backend -o yaml  with values
  kdsync get secret sample-secret -o json
  kdsync get secrets --zone east         what zone east holds, asked from the zone itself
  kdsync get zones";

/// Arguments of `get`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GetArgs {
    #[command(subcommand)]
    what: What,
    /// Mesh
    #[arg(short, long, global = true, default_value = "default")]
    mesh: String,
    /// All meshes
    #[arg(short = 'A', long, global = true, conflicts_with = "mesh")]
    all_meshes: bool,
    /// How to show it
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
    /// Ask this zone instead of global
    #[arg(long, global = true, value_name = "ZONE")]
    zone: Option<String>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Secrets of a mesh
    Secrets,
    /// One secret
    Secret {
        /// Its name
        name: String,
    },
    /// Secrets that belong to no mesh
    #[command(visible_alias = "globalsecrets")]
    GlobalSecrets,
    /// One of them
    #[command(visible_alias = "globalsecret")]
    GlobalSecret {
        /// Its name
        name: String,
    },
    /// Zones that ever connected
    Zones,
    /// One of them
    #[command(name = "zone")]
    OneZone {
        /// Its name
        name: String,
    },
}

/// Runs it.
pub(super) async fn run(server: &Server, args: GetArgs, output: &mut Output) -> Result<(), CliError> {
    let client = match &args.zone {
        Some(zone) => zone_client(server, zone).await?,
        None => Client::new(server)?,
    };
    let mesh = segment(&args.mesh);
    match &args.what {
        What::Secrets if args.all_meshes => list(&client, "/secrets", "secret", &args, output).await,
        What::Secrets => list(&client, &format!("/meshes/{mesh}/secrets"), "secret", &args, output).await,
        What::GlobalSecrets => list(&client, "/globalsecrets", "global-secret", &args, output).await,
        What::Zones => list(&client, "/zones", "zone", &args, output).await,
        What::Secret { name } => {
            let path = format!("/meshes/{mesh}/secrets/{}", segment(name));
            let missing = format!("there is no secret \"{name}\" in mesh {}", args.mesh);
            one(&client, &path, "secret", &missing, &args, output).await
        }
        What::GlobalSecret { name } => {
            let missing = format!("there is no global secret \"{name}\"");
            let path = format!("/globalsecrets/{}", segment(name));
            one(&client, &path, "global-secret", &missing, &args, output).await
        }
        What::OneZone { name } => {
            let missing = format!("there is no zone \"{name}\"");
            one(&client, &format!("/zones/{}", segment(name)), "zone", &missing, &args, output).await
        }
    }
}

/// A client of a zone's own API, whose address global knows.
async fn zone_client(server: &Server, zone: &str) -> Result<Client, CliError> {
    let global = Client::new(server)?;
    let status = match global.get(&format!("/kdsync/zones/{}", segment(zone))).await {
        Ok(status) => status,
        Err(error) if error.is_not_found() => {
            let at = global.address();
            return Err(CliError::Failed(format!("{at} knows no zone \"{zone}\"; see kdsync get zones")));
        }
        Err(error) => return Err(error.into()),
    };
    let address = text(&status, "apiAddress");
    if address.is_empty() {
        return Err(CliError::Failed(format!(
            "zone {zone} tells no address of its API (stock Kuma does not); name it with --address"
        )));
    }
    Ok(Client::at(address, server)?)
}

/// Follows the pages of a list.
async fn all_pages(client: &Client, path: &str) -> Result<(u64, Vec<Value>), CliError> {
    let (mut items, mut offset) = (Vec::new(), 0);
    loop {
        let mut page = client.get(&format!("{path}?size=1000&offset={offset}")).await?;
        let total = page.get("total").and_then(Value::as_u64).unwrap_or_default();
        let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) else {
            return Err(CliError::Failed(format!("{} gave no list", client.address())));
        };
        let last = page.get("next").is_none_or(Value::is_null) || more.is_empty();
        offset += more.len();
        items.extend(more);
        if last {
            return Ok((total, items));
        }
    }
}

async fn list(
    client: &Client,
    path: &str,
    kind: &str,
    args: &GetArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    let (total, items) = all_pages(client, path).await?;
    match args.output {
        Format::Table => table(&items, kind, output),
        Format::Name => names(&items, kind, output),
        Format::Json => output.json(&json!({ "total": total, "items": items, "next": null })),
        Format::Yaml => output.yaml(&json!({ "total": total, "items": items, "next": null })),
    }
}

async fn one(
    client: &Client,
    path: &str,
    kind: &str,
    missing: &str,
    args: &GetArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    let item = match client.get(path).await {
        Ok(item) => item,
        Err(error) if error.is_not_found() => return Err(CliError::Failed(missing.to_owned())),
        Err(error) => return Err(error.into()),
    };
    match args.output {
        Format::Table => table(&[item], kind, output),
        Format::Name => names(&[item], kind, output),
        Format::Json => output.json(&item),
        Format::Yaml => output.yaml(&item),
    }
}

fn names(items: &[Value], kind: &str, output: &mut Output) -> Result<(), CliError> {
    items.iter().try_for_each(|item| output.line(&format!("{kind}/{}", text(item, "name"))))
}

fn table(items: &[Value], kind: &str, output: &mut Output) -> Result<(), CliError> {
    let aged = |item: &Value| age(text(item, "modificationTime"));
    if kind == "secret" {
        let row = |item: &Value| vec![text(item, "mesh").into(), text(item, "name").into(), aged(item)];
        let rows: Vec<_> = items.iter().map(row).collect();
        return output.table(&["MESH", "NAME", "AGE"], &rows);
    }
    let rows: Vec<_> = items.iter().map(|item| vec![text(item, "name").into(), aged(item)]).collect();
    output.table(&["NAME", "AGE"], &rows)
}
