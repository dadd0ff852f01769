// Reads Kubernetes objects of YAML through Strimzi's own classes, and prints each field that these do not know.
// Ends with status 1 if there is any, or if a value has the wrong type.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.dataformat.yaml.YAMLFactory;
import java.io.File;
import java.lang.reflect.Method;
import java.util.Collection;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.Map;
import java.util.Set;

public class StrimziCheck {
  static final String PACKAGE = "io.strimzi.api.kafka.model.";
  static final Map<String, String> CLASSES =
      Map.of("Kafka", "kafka.Kafka", "KafkaNodePool", "nodepool.KafkaNodePool", "KafkaTopic", "topic.KafkaTopic",
          "KafkaUser", "user.KafkaUser");
  static int unknown = 0;

  static void walk(Object value, String path, Set<Object> seen) throws Exception {
    if (value == null || !seen.add(value)) return;
    if (value instanceof Map<?, ?> map) {
      for (var entry : map.entrySet()) walk(entry.getValue(), path + "." + entry.getKey(), seen);
    } else if (value instanceof Collection<?> list) {
      for (Object item : list) walk(item, path + "[]", seen);
    } else if (value.getClass().getName().startsWith("io.strimzi")) {
      for (Method method : value.getClass().getMethods()) {
        String name = method.getName();
        if (method.getParameterCount() > 0 || !name.startsWith("get") || method.getDeclaringClass() == Object.class) continue;
        if (name.equals("getAdditionalProperties")) report((Map<?, ?>) method.invoke(value), path);
        else if (!(value instanceof Enum)) walk(method.invoke(value), path + "." + name.substring(3), seen);
      }
    }
  }

  static void report(Map<?, ?> fields, String path) {
    if (fields == null || fields.isEmpty()) return;
    unknown++;
    System.out.println("unknown: " + path + " " + fields.keySet());
  }

  public static void main(String[] arguments) throws Exception {
    ObjectMapper mapper = new ObjectMapper(new YAMLFactory());
    int objects = 0;
    try (var parser = new YAMLFactory().createParser(new File(arguments[0]))) {
      var nodes = mapper.readerFor(JsonNode.class).<JsonNode>readValues(parser);
      while (nodes.hasNext()) {
        JsonNode node = nodes.next();
        String kind = node.path("kind").asText();
        Object object = mapper.treeToValue(node, Class.forName(PACKAGE + CLASSES.get(kind)));
        walk(object, kind + "/" + node.path("metadata").path("name").asText(),
            Collections.newSetFromMap(new IdentityHashMap<>()));
        objects++;
      }
    }
    System.out.println(objects + " objects, " + unknown + " unknown fields");
    System.exit(unknown == 0 ? 0 : 1);
  }
}
