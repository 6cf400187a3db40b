"""SEP's face: the Smooth Extension Protocol over one transport. Source: docs/protocol.md."""
