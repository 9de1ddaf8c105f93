"""Models in the formats of others. What a format needs is imported when it is used."""
