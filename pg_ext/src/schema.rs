//! The order in which `sql/` is loaded; nothing else. A file may use what the files before it made.

use pgrx::extension_sql_file;

extension_sql_file!("../../sql/roles.sql", name = "roles", bootstrap);
extension_sql_file!("../../sql/tables.sql", name = "tables", requires = ["roles"]);
extension_sql_file!("../../sql/primitives.sql", name = "primitives", requires = ["tables"]);
extension_sql_file!("../../sql/identity.sql", name = "identity", requires = ["primitives"]);
extension_sql_file!("../../sql/audit.sql", name = "audit", requires = ["identity"]);
extension_sql_file!("../../sql/seals.sql", name = "seals", requires = ["audit"]);
extension_sql_file!("../../sql/limits.sql", name = "limits", requires = ["seals"]);
extension_sql_file!("../../sql/rotation.sql", name = "rotation", requires = ["limits"]);
extension_sql_file!("../../sql/sessions.sql", name = "sessions", requires = ["rotation"]);
extension_sql_file!("../../sql/organizations.sql", name = "organizations", requires = ["sessions"]);
extension_sql_file!("../../sql/members.sql", name = "members", requires = ["organizations"]);
extension_sql_file!("../../sql/operators.sql", name = "operators", requires = ["members"]);
extension_sql_file!("../../sql/invitations.sql", name = "invitations", requires = ["operators"]);
extension_sql_file!("../../sql/accounts.sql", name = "accounts", requires = ["invitations"]);
extension_sql_file!("../../sql/cascades.sql", name = "cascades", requires = ["accounts"]);
extension_sql_file!("../../sql/mail.sql", name = "mail", requires = ["cascades"]);
extension_sql_file!("../../sql/federation.sql", name = "federation", requires = ["mail"]);
extension_sql_file!("../../sql/step_up.sql", name = "step_up", requires = ["federation"]);
extension_sql_file!("../../sql/personal_access_tokens.sql", name = "personal_access_tokens", requires = ["step_up"]);
extension_sql_file!("../../sql/email.sql", name = "email", requires = ["personal_access_tokens"]);
extension_sql_file!("../../sql/passwords.sql", name = "passwords", requires = ["email"]);
extension_sql_file!("../../sql/clients.sql", name = "clients", requires = ["passwords"]);
extension_sql_file!("../../sql/adoption.sql", name = "adoption", requires = ["clients"]);
extension_sql_file!("../../sql/statistics.sql", name = "statistics", requires = ["adoption"]);
extension_sql_file!("../../sql/samples.sql", name = "samples", requires = ["statistics"]);
extension_sql_file!("../../sql/maintenance.sql", name = "maintenance", requires = ["samples"]);
extension_sql_file!("../../sql/views.sql", name = "views", requires = ["maintenance"]);
extension_sql_file!("../../sql/event_types.sql", name = "event_types", requires = ["views"]);
extension_sql_file!("../../sql/history.sql", name = "history", requires = ["event_types"]);
extension_sql_file!("../../sql/oversight.sql", name = "oversight", requires = ["history"]);
extension_sql_file!("../../sql/oversight_sessions.sql", name = "oversight_sessions", requires = ["oversight"]);
extension_sql_file!("../../sql/figures.sql", name = "figures", requires = ["oversight_sessions"]);
extension_sql_file!("../../sql/installation.sql", name = "installation", requires = ["figures"]);
extension_sql_file!("../../sql/policies.sql", name = "policies", requires = ["installation"]);
extension_sql_file!("../../sql/grants.sql", name = "grants", finalize);
