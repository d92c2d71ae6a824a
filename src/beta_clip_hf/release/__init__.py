"""From and to other formats: converters and exports."""
