"""MCP's face: an App as a server of the Model Context Protocol, in both of its eras. Source: docs/mcp.md."""
