"""A keeper of pseudonyms: it holds one share of the key by which a consortium knows a person again."""
