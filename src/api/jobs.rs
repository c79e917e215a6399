//! `/embervault/jobs`: what workers are doing, for administrators. Not Cinder's.

use crate::api::http::call::Call;
use crate::api::http::reply::Reply;
use crate::model::error::Error;
use crate::model::job::Job;
use serde_json::{Value, json};

pub(super) fn list(call: &Call<'_>) -> Result<Reply, Error> {
    let jobs = call.api.services.list_jobs(call.ctx()?)?;
    let rows: Vec<Value> = jobs.iter().map(view).collect();
    Ok(Reply::json(200, json!({ "jobs": rows })))
}

fn view(job: &Job) -> Value {
    json!({
        "id": job.id,
        "kind": job.kind,
        "subject": job.subject,
        "project_id": job.project_id,
        "state": job.state.as_str(),
        "worker": job.worker,
        "attempt": job.attempt,
        "progress_done": job.progress_done,
        "progress_total": job.progress_total,
        "reason": job.reason,
        "request_id": job.request_id,
        "created_at": job.created_at.iso(),
        "updated_at": job.updated_at.iso(),
    })
}
