"""An MCP server (Model Context Protocol): captures judged and looked into by a language model's client."""
