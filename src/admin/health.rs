//! Health, for service managers and load balancers.

use actix_web::{HttpResponse, web::Data};

use crate::health::Health;

/// The process runs.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().body("live\n")
}

/// Work can be done; 503 names what is missing.
pub(super) async fn ready(health: Data<Health>) -> HttpResponse {
    let faults = health.faults();
    if faults.is_empty() {
        HttpResponse::Ok().body("ready\n")
    } else {
        HttpResponse::ServiceUnavailable().body(faults.join("\n") + "\n")
    }
}
