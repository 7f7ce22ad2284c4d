//! The endpoints, one noun a file. Each handler: check the input, ask the database (or the keys), shape the answer.

pub mod account;
mod answers;
pub mod csrf_token;
mod delivery;
pub mod email;
pub mod event_details;
pub mod federation;
pub mod health;
pub mod introspection;
pub mod invitations;
pub mod jwks;
mod lifetimes;
pub mod login;
pub mod logout;
pub mod members;
pub mod metadata;
pub mod metrics;
pub mod organizations;
pub mod oversight;
pub mod paging;
pub mod password;
pub mod personal_access_tokens;
pub mod refresh;
pub mod security_events;
pub mod sessions;
pub mod signup;
pub mod step_up;
pub mod token;

use poem_openapi::Tags;

/// The chapters of the document.
#[derive(Tags)]
enum Tag {
    /// Signing up, logging in, refreshing and logging out.
    Sessions,
    /// Who is logged in.
    Account,
    /// Tenants.
    Organizations,
    /// For programs that are shown tokens.
    Clients,
    /// For operators and verifiers.
    Service,
}
