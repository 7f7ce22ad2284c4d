//! A listener for metrics alone, where those who watch get in and the world does not.

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::{
    app::App,
    routes,
    server::{self, ClientBounds},
};

/// Connections at once: who watches needs one.
const CONNECTIONS: usize = 16;

/// Metrics being served.
pub struct MetricsServer {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl MetricsServer {
    /// Serves them.
    pub fn start(app: Arc<App>, listener: TcpListener, clients: &ClientBounds) -> Result<Self, String> {
        let address: SocketAddr = listener.local_addr().map_err(|error| error.to_string())?;
        tracing::info!("metrics are served on http://{address}{}", routes::metrics::PATH);
        let bounds = ClientBounds { connections: CONNECTIONS, connections_per_network: CONNECTIONS, ..clients.clone() };
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let served = server::serve(listener, routes::metrics::endpoint(app), bounds, stopped);
        let task = tokio::spawn(async {
            if let Err(error) = served.await {
                tracing::error!(%error, "metrics are not served any more");
            }
        });
        Ok(Self { stop, task })
    }

    /// Returns when the last one who asked was answered.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}
