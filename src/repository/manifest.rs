//! **P** manifest.json, owner.json, started.json.
