"""Pages and schemas written from the program itself."""
