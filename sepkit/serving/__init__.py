"""One App being served, whatever the wire: its life, its calls, its events, its log. No wire."""
