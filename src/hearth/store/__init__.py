"""What survives a restart: SQLite with numbered migrations, and content-addressed artifacts."""
