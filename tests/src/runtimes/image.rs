//! An image without a registry: a static busybox as the one layer of an OCI archive, which containerd and podman import. Lives here:
//! making it. It serves as the pods' sandbox too, for it does nothing until it is told to.

use std::fs;

use serde_json::{Value, json};

use super::place::Place;
use crate::{
    error::{Context, LabError, Result},
    space::Space,
};

/// Its name, in the registry that every runtime takes for the machine itself.
pub const NAME: &str = "localhost/ferrule-test:1";
/// The archive, in the node and in the place.
pub const ARCHIVE: &str = "/run/image.tar";
const BUSYBOX: &str = "/bin/busybox";
const LAYOUT: &str = "/run/image";
/// In the image: `reach ADDRESS...` pings each; ends at the first that does not answer, with what ping said.
const REACH: &str = "#!/bin/sh\nfor at; do\n    ping -c 1 -W 2 \"$at\" || exit\ndone\n";

/// Writes the archive into a node.
pub fn write(node: &Space, place: &Place) -> Result<()> {
    let program = node.enter(|| fs::read(BUSYBOX))?.context(|| format!("{BUSYBOX} (type `make setup`)"))?;
    if program.windows(7).any(|bytes| bytes == b"/ld-lin") {
        return Err(LabError::promise(
            "a static busybox (install busybox-static in place of busybox)",
            "one that needs a dynamic linker",
        ));
    }
    place.write("/run/rootfs/bin/busybox", &program)?;
    place.write("/run/rootfs/bin/reach", REACH.as_bytes())?;
    place.run("chmod 0755 /run/rootfs/bin/busybox /run/rootfs/bin/reach")?;
    for name in ["httpd", "ip", "ping", "sh", "sleep"] {
        place.run(&format!("ln -s busybox /run/rootfs/bin/{name}"))?;
    }
    place.run("mkdir -p /run/rootfs/etc /run/rootfs/proc /run/rootfs/sys /run/rootfs/dev")?;
    place
        .run("tar --create --file /run/layer.tar --directory /run/rootfs --owner 0 --group 0 --mtime @0 .")?;
    let layer = node.enter(|| fs::read("/run/layer.tar"))?.context(|| "the layer")?;
    let layer_digest = put(place, &layer)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        // Ends by signals alone, as the "pause" of Kubernetes does: process 1 has no defaults, so the shell handles SIGTERM.
        "config": {
            "Entrypoint": ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait; done"],
            "Env": ["PATH=/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [&layer_digest] },
    })
    .to_string();
    let config_digest = put(place, config.as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config.v1+json", &config_digest, config.len()),
        "layers": [part("layer.v1.tar", &layer_digest, layer.len())],
    })
    .to_string();
    let manifest_digest = put(place, manifest.as_bytes())?;
    let mut entry = part("manifest.v1+json", &manifest_digest, manifest.len());
    // The first is containerd's, the second podman's.
    entry["annotations"] =
        json!({ "io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    place.write(&format!("{LAYOUT}/index.json"), index.to_string().as_bytes())?;
    place.write(&format!("{LAYOUT}/oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    place.run(&format!("tar --create --file {ARCHIVE} --directory {LAYOUT} .")).map(drop)
}

/// Stores a blob of the layout under its digest.
fn put(place: &Place, blob: &[u8]) -> Result<String> {
    place.write("/run/blob", blob)?;
    let sum = place.run("sha256sum /run/blob")?;
    let digits = sum.split_whitespace().next().unwrap_or_default();
    place.run(&format!("install -D -m 0644 /run/blob {LAYOUT}/blobs/sha256/{digits}"))?;
    Ok(format!("sha256:{digits}"))
}

fn part(kind: &str, digest: &str, size: usize) -> Value {
    json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size })
}

/// The machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
