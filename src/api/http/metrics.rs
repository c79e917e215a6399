//! `GET /metrics`, on an address of its own.

use crate::api::http::connection::{Limits, serve};
use crate::clock::Clock;
use crate::db::vaults::Turn;
use crate::db::{self, Db};
use crate::metrics::{JobTally, Metrics};
use crate::model::error::chain;
use crate::model::id::VaultId;
use actix_web::dev::Server;
use actix_web::{App, HttpResponse, web};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Readers of metrics are few and near.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once.
pub const METRICS_CONNECTIONS_MAX: usize = 8;

/// Serves the metrics of this process.
pub fn serve_metrics(
    metrics: Arc<Metrics>,
    db: Db,
    clock: Clock,
    listener: TcpListener,
) -> std::io::Result<Server> {
    let limits = Limits {
        workers: 1,
        connections: METRICS_CONNECTIONS_MAX,
        patience: PATIENCE,
        grace_seconds: 1,
    };
    serve(listener, &limits, move || {
        let (metrics, db, clock) = (metrics.clone(), db.clone(), clock.clone());
        let answer = move || {
            let (metrics, db, clock) = (metrics.clone(), db.clone(), clock.clone());
            async move {
                match web::block(move || render(&metrics, &db, &clock)).await {
                    Ok(text) => HttpResponse::Ok().content_type(TEXT).body(text),
                    Err(_) => HttpResponse::InternalServerError().finish(),
                }
            }
        };
        App::new().route("/metrics", web::get().to(answer))
    })
}

/// While the database does not answer, the counters of this process are still shown.
fn render(metrics: &Metrics, db: &Db, clock: &Clock) -> String {
    let tallies = db.read(db::jobs::tally);
    let now = clock.now();
    let tallies: Vec<JobTally> = match tallies {
        Ok(tallies) => tallies
            .into_iter()
            .map(|(kind, state, count, oldest)| JobTally {
                kind,
                state: state.as_str().to_owned(),
                count,
                age: Duration::from_micros(u64::try_from(now.0 - oldest.0).unwrap_or(0)),
            })
            .collect(),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "jobs could not be counted");
            Vec::new()
        }
    };
    match db.read(db::vaults::maintained) {
        Ok(vaults) => {
            let count = |failed: &dyn Fn(&(VaultId, Turn, Turn)) -> bool| {
                vaults.iter().filter(|vault| failed(vault)).count() as i64
            };
            metrics.maintenance_failed(
                count(&|(_, collected, _)| collected.failures > 0),
                count(&|(.., verified)| verified.failures > 0),
            );
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "vaults could not be counted");
        }
    }
    metrics.render(&tallies)
}
