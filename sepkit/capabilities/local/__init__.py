"""What an App can rely on where its host has none of it: kept in this process, and in the user's data folder."""
