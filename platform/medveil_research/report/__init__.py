"""Pages for people, one self-contained HTML file each; :mod:`.base` has what they share."""
