"""The researcher's commands, a file a topic: parse and show. Heavy libraries load when one runs."""
