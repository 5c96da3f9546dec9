//! A connection to the API of an instance.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use vswitch::api::Client;

use crate::{command::stop_if_interrupted, instance::Instance};

/// A connection to the API of a daemon.
pub struct Api {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Api {
    /// Connects to the daemon of an instance.
    pub fn connect(instance: &Instance) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let named = vswitch::model::Instance::new(instance.name().parse()?);
        let client = runtime.block_on(Client::connect(&named))?;
        Ok(Self { runtime, client })
    }

    /// Sends a POST request and ignores the content of the reply.
    pub fn post(&mut self, path: &str, body: &impl serde::Serialize) -> Result<()> {
        stop_if_interrupted()?;
        let answer: Result<Value, _> = self.runtime.block_on(self.client.post(path, body));
        answer.with_context(|| format!("POST {path} {}", json!(body)))?;
        Ok(())
    }

    /// Sends a DELETE request and ignores the content of the reply.
    pub fn delete(&mut self, path: &str) -> Result<()> {
        let answer: Result<Value, _> = self.runtime.block_on(self.client.delete(path));
        answer.with_context(|| format!("DELETE {path}"))?;
        Ok(())
    }
}
